"""What metrics of balls share: precision and recall, density and coverage. A ball reaches to a k-th neighbour."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flexidit_jax.metrics.distances import check_kind
from flexidit_jax.metrics.estimate import Estimate
from flexidit_jax.metrics.score import Images, Score


@dataclass(frozen=True)
class OfBalls(ABC):
    """A metric of `pool`, of samples and a reference.

    Attributes:
      k: how far a ball reaches.
      distance: "float32", "float64", or "float16" as ADM's evaluator has it (`metrics.distances.tiles`).
    """

    reads, compares = ("pool",), ("pool",)
    k: int
    distance: str = "float32"

    def __post_init__(self) -> None:
        check_kind(self.distance)

    @abstractmethod
    def measured(self, samples: np.ndarray, reference: np.ndarray) -> Mapping[str, Estimate]:
        """The numbers of features [N, D] and [M, D], by name."""

    def scores(self, samples: Images, reference: Images, features: str) -> list[Score]:
        """All of them.

        Raises:
          UserError: too few images, or features that are not finite.
        """
        theirs = reference.array("pool")
        how = f"k={self.k}, {self.distance}, {len(theirs):,} reference images"
        found = self.measured(samples.array("pool"), theirs)
        return [Score.of(name, one, how=how) for name, one in found.items()]
