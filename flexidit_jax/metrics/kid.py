"""Kernel Inception distance: the unbiased MMD^2 with the kernel (x.y / D + 1)^3; may be below 0 (arXiv 1801.01401)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics.distances import cut
from flexidit_jax.metrics.estimate import Estimate
from flexidit_jax.metrics.moments import check_finite
from flexidit_jax.metrics.score import Images, Score

#: rows and columns of a tile of the kernel: 64 MB in float64
TILE = 2800


@dataclass(frozen=True)
class Metric:
    """KID of all images, with a standard error; or of subsets, as torch-fidelity has it.

    Attributes:
      subsets: how many; None for all images at once.
      size: images of a subset.
      seed: of their draws.
    """

    reads, compares = ("pool",), ("pool",)
    numbers = ("kid",)
    subsets: int | None = None
    size: int = 1000
    seed: int = 2020

    def __post_init__(self) -> None:
        build.positive("kid", size=self.size, **({} if self.subsets is None else {"subsets": self.subsets}))

    def check(self, samples: int, reference: int | None) -> None:
        """Refuses too few images.

        Raises:
          UserError: they are.
        """
        _check_enough(min(samples, samples if reference is None else reference), self.size if self.subsets else 2)

    def scores(self, samples: Images, reference: Images, features: str) -> list[Score]:
        """The one.

        Raises:
          UserError: see `kid` and `kid_of_subsets`.
        """
        sets = samples.array("pool"), reference.array("pool")
        if self.subsets is None:
            return [Score.of("kid", kid(*sets), 0.0)]
        found = kid_of_subsets(*sets, self.subsets, self.size, self.seed)
        how = f"{self.subsets} subsets of {self.size:,}, which deviate by {found.deviation:.2g}"
        return [Score("kid", found.mean, None, 0.0, how)]


class Subsets(NamedTuple):
    """torch-fidelity's number: the mean over subsets and their standard deviation (ddof 0), which is no error of it."""

    mean: float
    deviation: float
    each: np.ndarray


def kid(samples: np.ndarray, reference: np.ndarray) -> Estimate:
    """Of all features [N, D] and [M, D], with the influence of every sample; its mean is the same at any N.

    Raises:
      UserError: fewer than two images in a set, or features that are not finite.
    """
    _check_enough(min(len(samples), len(reference)), 2)
    own, own_diagonal = _row_sums(samples, samples)
    theirs, their_diagonal = _row_sums(reference, reference)
    cross, _ = _row_sums(samples, reference)
    n, m = len(samples), len(reference)
    within = (own - own_diagonal) / (n - 1)  # a sample is no pair with itself
    across = cross / m
    value = within.mean() + (theirs - their_diagonal).sum() / (m * (m - 1)) - 2 * across.mean()
    return Estimate(float(value), 2 * (within - across - (within - across).mean()))


def kid_of_subsets(
    samples: np.ndarray, reference: np.ndarray, subsets: int = 100, size: int = 1000, seed: int = 2020
) -> Subsets:
    """As torch-fidelity draws them: for every subset first samples, then reference images, without replacement.

    Raises:
      UserError: fewer than `size` images in a set, or features that are not finite.
    """
    _check_enough(min(len(samples), len(reference)), size)
    rng, each = np.random.RandomState(seed), []
    for _ in range(subsets):
        drawn = [features[rng.choice(len(features), size, replace=False)] for features in (samples, reference)]
        each.append(kid(*drawn).value)
    return Subsets(float(np.mean(each)), float(np.std(each)), np.array(each))


def _check_enough(fewest: int, size: int) -> None:
    if fewest < max(size, 2):
        raise UserError(f"KID takes {max(size, 2):,} images or more of each set, and there are {fewest:,}")


def _row_sums(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums [N] of the kernel over all rows of b, and the kernel [N] of every row of a with itself."""
    sums, diagonal = np.zeros(len(a)), np.empty(len(a))
    for rows in cut(len(a), TILE):
        left = np.asarray(a[rows], np.float64)
        check_finite(left, rows.start)
        diagonal[rows] = ((left**2).sum(1) / left.shape[1] + 1) ** 3
        for columns in cut(len(b), TILE):
            right = np.asarray(b[columns], np.float64)
            sums[rows] += ((left @ right.T / left.shape[1] + 1) ** 3).sum(1)
    return sums, diagonal
