"""Improved precision and recall: which samples lie among the reference images, and the other way round.

Kynkaanniemi et al., arXiv 1904.06991. The balls of a set reach from every image to its k-th nearest other one.
Both numbers depend on the sizes of both sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flexidit_jax.metrics.distances import check_enough, check_kind, radii, tiles
from flexidit_jax.metrics.estimate import Estimate, mean_of
from flexidit_jax.metrics.score import Images, Score


@dataclass(frozen=True)
class Metric:
    """Both; see `precision_recall`.

    Attributes:
      k: how far a ball reaches.
      distance: "float32", "float64", or "float16" as ADM's evaluator has it (`metrics.distances.tiles`).
    """

    reads, compares = ("pool",), ("pool",)
    numbers = ("precision", "recall")
    k: int = 3
    distance: str = "float32"

    def __post_init__(self) -> None:
        check_kind(self.distance)

    def check(self, samples: int, reference: int | None) -> None:
        """Refuses too few images.

        Raises:
          UserError: they are.
        """
        check_enough(min(samples, samples if reference is None else reference), self.k)

    def scores(self, samples: Images, reference: Images, features: str) -> list[Score]:
        """Both.

        Raises:
          UserError: see `precision_recall`.
        """
        found = precision_recall(samples.array("pool"), reference.array("pool"), self.k, self.distance)
        how = f"k={self.k}, {self.distance}, {len(reference.array('pool')):,} reference images"
        return [Score.of(name, one, how=how) for name, one in found._asdict().items()]


class PrecisionRecall(NamedTuple):
    """Shares in 0..1.

    Attributes:
      precision: of the samples, those within a ball of the reference; its error is that of drawing samples.
      recall: of the reference images, those within a ball of the samples; its error is that of drawing references.
    """

    precision: Estimate
    recall: Estimate


def precision_recall(
    samples: np.ndarray, reference: np.ndarray, k: int = 3, distance: str = "float32"
) -> PrecisionRecall:
    """Of features [N, D] and [M, D].

    Args:
      k: how far a ball reaches.
      distance: see `metrics.distances.tiles`; "float16" is ADM's.

    Raises:
      UserError: k or fewer images in a set, or features that are not finite.
    """
    reach = radii(reference, k, distance)
    own_reach = radii(samples, k, distance)
    within, covered = np.zeros(len(samples), bool), np.zeros(len(reference), bool)
    for rows, columns, tile in tiles(samples, reference, distance):
        within[rows] |= (tile <= reach[columns]).any(1)
        covered[columns] |= (tile <= own_reach[rows, None]).any(0)
    return PrecisionRecall(mean_of(within), mean_of(covered))
