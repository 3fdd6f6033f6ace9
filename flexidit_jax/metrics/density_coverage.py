"""Density and coverage, which one outlier of the reference does not raise (Naeem et al., arXiv 2002.09797)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flexidit_jax.metrics.distances import check_enough, check_kind, radii, tiles
from flexidit_jax.metrics.estimate import Estimate, mean_of
from flexidit_jax.metrics.score import Images, Score


@dataclass(frozen=True)
class Metric:
    """Both; see `density_coverage`.

    Attributes:
      k: how far a ball reaches.
      distance: see `metrics.distances.tiles`.
    """

    reads, compares = ("pool",), ("pool",)
    numbers = ("density", "coverage")
    k: int = 5
    distance: str = "float32"

    def __post_init__(self) -> None:
        check_kind(self.distance)

    def check(self, samples: int, reference: int | None) -> None:
        """Refuses too few images.

        Raises:
          UserError: they are.
        """
        if reference is not None:
            check_enough(reference, self.k)

    def scores(self, samples: Images, reference: Images, features: str) -> list[Score]:
        """Both.

        Raises:
          UserError: see `density_coverage`.
        """
        found = density_coverage(samples.array("pool"), reference.array("pool"), self.k, self.distance)
        how = f"k={self.k}, {self.distance}, {len(reference.array('pool')):,} reference images"
        return [Score.of(name, one, how=how) for name, one in found._asdict().items()]


class DensityCoverage(NamedTuple):
    """Both about 1 where both sets have one distribution; density may be more.

    Attributes:
      density: in how many balls of the reference a sample lies, over k; its error is that of drawing samples.
      coverage: share of the reference whose nearest sample is within its ball; its error is that of drawing references.
    """

    density: Estimate
    coverage: Estimate


def density_coverage(
    samples: np.ndarray, reference: np.ndarray, k: int = 5, distance: str = "float32"
) -> DensityCoverage:
    """Of features [N, D] and [M, D]; the arguments are those of `metrics.precision_recall`, but a ball is open.

    Raises:
      UserError: k or fewer reference images, or features that are not finite.
    """
    reach = radii(reference, k, distance)
    balls, covered = np.zeros(len(samples)), np.zeros(len(reference), bool)
    for rows, columns, tile in tiles(samples, reference, distance):
        inside = tile < reach[columns]
        balls[rows] += inside.sum(1)
        covered[columns] |= inside.any(0)
    return DensityCoverage(mean_of(balls / k), mean_of(covered))
