"""Improved precision and recall: which samples lie among the reference images, and the other way round.

Kynkaanniemi et al., arXiv 1904.06991. The balls of a set reach from every image to its k-th nearest other one.
Both numbers depend on the sizes of both sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flexidit_jax.metrics.balls import OfBalls
from flexidit_jax.metrics.distances import check_enough, radii, tiles
from flexidit_jax.metrics.estimate import Estimate, mean_of


@dataclass(frozen=True)
class Metric(OfBalls):
    """Both; see `precision_recall`."""

    numbers = ("precision", "recall")
    k: int = 3

    def check(self, samples: int, reference: int | None) -> None:
        """Refuses too few images.

        Raises:
          UserError: they are.
        """
        check_enough(min(samples, samples if reference is None else reference), self.k)

    def measured(self, samples: np.ndarray, reference: np.ndarray) -> dict[str, Estimate]:
        """See `precision_recall`."""
        return precision_recall(samples, reference, self.k, self.distance)._asdict()


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
    return PrecisionRecall(mean_of(within), mean_of(covered, of_reference=True))
