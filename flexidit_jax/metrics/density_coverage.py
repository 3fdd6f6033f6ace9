"""Density and coverage, which one outlier of the reference does not raise (Naeem et al., arXiv 2002.09797)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flexidit_jax.metrics.balls import OfBalls
from flexidit_jax.metrics.distances import check_enough, radii, tiles
from flexidit_jax.metrics.estimate import Estimate, mean_of


@dataclass(frozen=True)
class Metric(OfBalls):
    """Both; see `density_coverage`."""

    numbers = ("density", "coverage")
    k: int = 5

    def check(self, samples: int, reference: int | None) -> None:
        """Refuses too few images.

        Raises:
          UserError: they are.
        """
        if reference is not None:
            check_enough(reference, self.k)

    def measured(self, samples: np.ndarray, reference: np.ndarray) -> dict[str, Estimate]:
        """See `density_coverage`."""
        return density_coverage(samples, reference, self.k, self.distance)._asdict()


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
    return DensityCoverage(mean_of(balls / k), mean_of(covered, of_reference=True))
