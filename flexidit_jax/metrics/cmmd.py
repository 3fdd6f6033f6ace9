"""CMMD: the MMD^2 of CLIP embeddings with a Gaussian kernel, times 1000 (Jayasumana et al., arXiv 2401.09603).

The diagonal is kept (a V-statistic), as in the published code. Nearly 10 |mean x - mean y|^2, a check by eye.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics.distances import cut
from flexidit_jax.metrics.estimate import Estimate
from flexidit_jax.metrics.moments import check_finite
from flexidit_jax.metrics.score import Images, Score

SIGMA, SCALE = 10.0, 1000.0
#: rows and columns of a tile of the kernel: 64 MB in float64
TILE = 2800


@dataclass(frozen=True)
class Metric:
    """See `cmmd`; published ones are of CLIP ViT-L/14 at 336 pixels."""

    reads, compares = ("pool",), ("pool",)
    numbers = ("cmmd",)

    def check(self, samples: int, reference: int | None) -> None:
        """Any number will do."""

    def scores(self, samples: Images, reference: Images, features: str) -> list[Score]:
        """The one.

        Raises:
          UserError: see `cmmd`.
        """
        return [Score.of("cmmd", cmmd(samples.array("pool"), reference.array("pool")))]


def cmmd(samples: np.ndarray, reference: np.ndarray) -> Estimate:
    """Of embeddings [N, D] and [M, D], which are made unit vectors; with the influence of every sample.

    Raises:
      UserError: no images in a set, or embeddings that are not finite or zero.
    """
    if not len(samples) or not len(reference):
        raise UserError(f"CMMD needs images, got {len(samples)} samples and {len(reference)} reference images")
    within, across = _row_means(samples, samples), _row_means(samples, reference)
    value = within.mean() + _row_means(reference, reference).mean() - 2 * across.mean()
    influence = 2 * (within - across)
    return Estimate(float(SCALE * value), SCALE * (influence - influence.mean()))


def _row_means(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Means [N] of the kernel less 1 over all rows of b: the ones cancel, and with them their rounding."""
    sums = np.zeros(len(a))
    for rows in cut(len(a), TILE):
        left = unit(a[rows], rows.start)
        for columns in cut(len(b), TILE):
            squares = np.clip(2 - 2 * left @ unit(b[columns], columns.start).T, 0, None)
            sums[rows] += np.expm1(-squares / (2 * SIGMA**2)).sum(1)
    return sums / len(b)


def unit(features: np.ndarray, first: int = 0) -> np.ndarray:
    """Rows of length 1, float64 [N, D].

    Args:
      first: the number of the first of them.

    Raises:
      UserError: a row of zeros, or one that is not finite.
    """
    features = np.asarray(features, np.float64)
    check_finite(features, first)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    if (none := np.flatnonzero(lengths == 0)).size:
        raise UserError(f"the embedding of image {first + none[0]} is zero and has no direction")
    return features / lengths
