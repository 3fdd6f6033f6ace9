"""The Frechet distance between Gaussians fitted to features: FID, sFID and FD-DINOv2, by whose features they are.

Eigenproblems are solved in float64, on the host: in float32 they are wrong by whole units at D = 2048.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.notes import note
from flexidit_jax.metrics.estimate import Estimate
from flexidit_jax.metrics.moments import Gaussian, check_finite
from flexidit_jax.metrics.score import Images, Score, gaussian_of

#: features whose influence is computed at a time
TILE = 4096
#: kinds of features -> what the distance of them is called, of Inception and of any other
NAMES = {"pool": ("fid", "fd"), "spatial": ("sfid", "sfd")}


@dataclass(frozen=True)
class Metric:
    """FID and sFID of Inception's features, FD of any others; see `frechet_distance`.

    Attributes:
      infinity: also FID-infinity, which solves 15 more eigenproblems.
      seed: of its draws.
    """

    reads, compares, fits = ("pool",), (), ("pool",)
    numbers = ("fid", "sfid", "fd", "sfd", "fid_infinity", "fd_infinity")
    infinity: bool = False
    seed: int = 0

    def check(self, samples: int, reference: int | None) -> None:
        """Refuses too few samples or reference images (None where there are statistics alone).

        Raises:
          UserError: they are.
        """
        if (fewest := min(samples, samples if reference is None else reference)) < 2:
            raise UserError(f"a Frechet distance needs two images or more of each set, and there are {fewest}")
        if self.infinity:
            _check_line(samples)

    def scores(self, samples: Images, reference: Images, features: str) -> list[Score]:
        """One of every kind of features that both have.

        Args:
          features: the name of the extractor.

        Raises:
          UserError: see `frechet_distance`.
        """
        found = []
        for kind, (of_inception, other) in NAMES.items():
            if kind != "pool" and not all(
                kind in {*images.features, *images.fitted} for images in (samples, reference)
            ):
                continue
            name = of_inception if features == "inception" else other
            found.append(_score(name, kind, samples, reference))
            if self.infinity and kind == "pool":
                array, fitted = samples.array(kind), reference.gaussian(kind)
                line = at_infinity(
                    lambda n, x=array, fitted=fitted: frechet_distance(gaussian_of(x, n), fitted),
                    len(array),
                    seed=self.seed,
                )
                found.append(Score(f"{name}_infinity", *line, how="the error is that of the line"))
        return found


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    """|m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^1/2), 0 where rounding would make it less.

    The last trace is the sum of square roots of the eigenvalues of the symmetric S2^1/2 S1 S2^1/2, which are those of
    S1 S2: no matrix square root of a product is taken. The root of b, the reference, is kept with it.

    Raises:
      UserError: they are of different features, or are not finite.
    """
    _check_alike(a, b)
    return _distance(a, b, np.linalg.eigvalsh(b.root @ a.covariance @ b.root))


def frechet(features: np.ndarray, own: Gaussian, reference: Gaussian) -> Estimate:
    """The distance of [N, D] features to a reference, with the influence of every one of them.

    influence u_i = 2 d.(m1 - m2) + d'(I - T) d, d = x_i - m1, T = S2^1/2 (S2^1/2 S1 S2^1/2)^-1/2 S2^1/2 with the
    pseudo-inverse: how the distance moves with the weight of x_i. Its standard deviation over sqrt(N) is the standard
    error of what drawing the samples adds; it knows nothing of bias, nor of the reference.

    Args:
      own: fitted to `features`.

    Raises:
      UserError: see `frechet_distance`.
    """
    _check_alike(own, reference)
    values, vectors = np.linalg.eigh(reference.root @ own.covariance @ reference.root)
    known = values > values[-1] * len(values) * np.finfo(np.float64).eps
    half = reference.root @ (vectors[:, known] * values[known] ** -0.25)  # T = half half'
    influence = []
    for begin in range(0, len(features), TILE):
        part = np.asarray(features[begin : begin + TILE], np.float64)
        check_finite(part, begin)
        part = part - own.mean
        curved = (part**2).sum(1) - ((part @ half) ** 2).sum(1)
        influence.append(2 * part @ (own.mean - reference.mean) + curved)
    return Estimate(_distance(own, reference, values), np.concatenate(influence))


def bias(fitted: Gaussian, count: int, reference_count: int | None = None) -> float:
    """What drawing `count` Gaussian samples adds to a distance on average, c / N.

    c = 5/4 tr S + 1/2 sum_ij l_i l_j / (l_i + l_j), l the eigenvalues of the covariance. So this is also the floor:
    what a perfect model of the reference `fitted` would score.

    Args:
      reference_count: images of a reference that is a sample of what is meant; None where it is what is meant, such as
        the whole training set.
    """
    values = fitted.variances
    sums = values[:, None] + values
    pairs = np.divide(np.outer(values, values), sums, out=np.zeros_like(sums), where=sums > 0)
    constant = 1.25 * values.sum() + 0.5 * pairs.sum()
    return float(constant / count + (constant / reference_count if reference_count else 0))


def at_infinity(
    distance: Callable[[np.ndarray], float], count: int, least: int = 5000, points: int = 15, seed: int = 0
) -> tuple[float, float]:
    """FID-infinity: the distance of infinitely many samples, read off subsets of those that there are.

    Args:
      distance: of the samples with these numbers [n], ascending.
      count: samples there are.
      least: of a subset; the largest is all of them.
      points: subsets, each drawn without replacement.
      seed: of the draws.

    Returns:
      The intercept of the line in 1/n, and its standard error.

    Raises:
      UserError: fewer samples than twice `least`.
    """
    _check_line(count, least)
    rng = np.random.default_rng(seed)
    sizes = np.linspace(least, count, points).astype(int)
    drawn = (np.sort(rng.permutation(count)[:size]) for size in sizes)
    return intercept(sizes, [distance(numbers) for numbers in drawn])


def intercept(sizes: Sequence[int], distances: Sequence[float]) -> tuple[float, float]:
    """Of the straight line of distances over 1/size, by least squares, and its standard error."""
    rows = np.stack([np.ones(len(sizes)), 1 / np.asarray(sizes, np.float64)], 1)
    found, *_ = np.linalg.lstsq(rows, np.asarray(distances, np.float64))
    left = distances - rows @ found
    variance = (left @ left) / max(len(sizes) - 2, 1) * np.linalg.inv(rows.T @ rows)
    return float(found[0]), float(np.sqrt(variance[0, 0]))


def too_few(count: int, width: int) -> str | None:
    """What is said of fewer samples than there are features; None where there are enough."""
    if count > width:
        return None
    return (
        f"{count:,} samples are too few for a Frechet distance of {width:,} features: their covariance is singular and"
        f" the bias outweighs what is measured; KID has no bias at any number, or draw more than {width:,}"
    )


def _score(name: str, kind: str, samples: Images, reference: Images) -> Score:
    own, theirs = samples.gaussian(kind), reference.gaussian(kind)
    if own.count and (said := too_few(own.count, len(own.mean))):
        note(said)
    floor = bias(theirs, own.count, theirs.count) if own.count else None
    if kind in samples.fitted:  # what features there are beside them are of other images
        return Score(name, frechet_distance(own, theirs), floor=floor)
    return Score.of(name, frechet(samples.array(kind), own, theirs), floor)


def _check_line(count: int, least: int = 5000) -> None:
    if count < 2 * least:
        raise UserError(
            f"FID-infinity draws a line through subsets of {least:,} to all samples, and {count:,} are too few;"
            f" {2 * least:,} would do"
        )


def _distance(a: Gaussian, b: Gaussian, cross: np.ndarray) -> float:
    apart = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance) + np.trace(b.covariance)
    return float(max(apart - 2 * np.sqrt(np.clip(cross, 0, None)).sum(), 0))


def _check_alike(a: Gaussian, b: Gaussian) -> None:
    if len(a.mean) != len(b.mean):
        raise UserError(
            f"statistics of {len(a.mean)} features cannot be compared with statistics of {len(b.mean)};"
            " both must come from one extractor"
        )
