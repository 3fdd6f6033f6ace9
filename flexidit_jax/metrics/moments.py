"""Mean and covariance of features, gathered in a stream: the same bits however the images were batched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flexidit_jax.common.errors import UserError

#: rows whose moments are taken together; a stream is cut anew into as many
BLOCK = 1024


@dataclass(frozen=True)
class Gaussian:
    """What is fitted to features, and all that a Frechet distance asks of them.

    Attributes:
      mean: [D] float64.
      covariance: [D, D] float64, normalised by count - 1.
      count: images it was fitted to; None where a file does not say.
    """

    mean: np.ndarray
    covariance: np.ndarray
    count: int | None = None

    @cached_property
    def root(self) -> np.ndarray:
        """covariance^1/2, symmetric; seconds at D = 2048, once."""
        _, vectors = self._eigen
        return (vectors * np.sqrt(self.variances)) @ vectors.T

    @cached_property
    def variances(self) -> np.ndarray:
        """[D], the eigenvalues of the covariance, ascending."""
        return np.clip(self._eigen[0], 0, None)

    @cached_property
    def _eigen(self) -> tuple[np.ndarray, np.ndarray]:
        return np.linalg.eigh(self.covariance)


@dataclass(frozen=True)
class Moments:
    """Mean and scatter of feature vectors; two of them merge into the moments of the union.

    Attributes:
      count: vectors seen.
      mean: [D] float64.
      scatter: [D, D] float64, sum of outer products of deviations from the mean.
    """

    count: int
    mean: np.ndarray
    scatter: np.ndarray

    @classmethod
    def of(cls, features: np.ndarray) -> Moments:
        """Moments of [N, D] features.

        Raises:
          UserError: NaN or infinity among them.
        """
        features = np.asarray(features, np.float64)
        check_finite(features)
        mean = features.mean(0)
        centred = features - mean
        return cls(len(features), mean, centred.T @ centred)

    def __add__(self, other: Moments) -> Moments:
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        between = np.outer(delta, delta) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> np.ndarray:
        """[D, D], normalised by count - 1."""
        if self.count < 2:
            raise UserError(f"a covariance needs at least 2 samples, got {self.count}")
        return self.scatter / (self.count - 1)

    @cached_property
    def gaussian(self) -> Gaussian:
        """Fitted to the features."""
        return Gaussian(self.mean, self.covariance, self.count)


class MomentStream:
    """Moments of features that arrive in batches of any size.

    The stream is cut into blocks of `BLOCK` rows, so that sums are taken in the same order however it was batched.

    Args:
      whole: of the blocks so far, as `whole` of an earlier stream; the next features are those that follow them.
    """

    def __init__(self, whole: Moments | None = None) -> None:
        #: of the whole blocks alone; what an interrupted stream goes on from
        self.whole = whole
        self._rest: list[np.ndarray] = []

    def add(self, features: np.ndarray) -> None:
        """Takes [B, D] more.

        Raises:
          UserError: NaN or infinity among them, or another D than before.
        """
        features = np.asarray(features)
        check_finite(features, self.count)
        width = self._width
        if width is not None and features.shape[1] != width:
            raise UserError(f"features of {width} numbers are followed by features of {features.shape[1]}")
        self._rest.append(features)
        if self._waiting < BLOCK:
            return
        rows = np.concatenate(self._rest)
        whole = len(rows) - len(rows) % BLOCK
        for begin in range(0, whole, BLOCK):
            self.whole = _merged(self.whole, Moments.of(rows[begin : begin + BLOCK]))
        self._rest = [rows[whole:]]

    @property
    def count(self) -> int:
        """Vectors seen."""
        return (0 if self.whole is None else self.whole.count) + self._waiting

    @property
    def moments(self) -> Moments:
        """Of all there were.

        Raises:
          UserError: there were none.
        """
        if not self.count:
            raise UserError("there are no features to take moments of")
        return _merged(self.whole, Moments.of(np.concatenate(self._rest))) if self._waiting else self.whole

    @property
    def _waiting(self) -> int:
        return sum(map(len, self._rest))

    @property
    def _width(self) -> int | None:
        if self.whole is not None:
            return len(self.whole.mean)
        return self._rest[0].shape[1] if self._rest else None


def moments_of(batches: Iterable[np.ndarray]) -> Moments:
    """Of all features in `batches` of any size, each [B, D].

    Raises:
      UserError: see `MomentStream`.
    """
    stream = MomentStream()
    for batch in batches:
        stream.add(batch)
    return stream.moments


def check_finite(features: np.ndarray, first: int = 0) -> None:
    """Refuses features that are no numbers.

    Args:
      features: [N, D].
      first: the number of the first of them.

    Raises:
      UserError: NaN or infinity; the first such image is named.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        sound = np.isfinite(features.sum(1))
    if not sound.all():
        bad = np.flatnonzero(~np.isfinite(features).all(1))
        if len(bad):
            raise UserError(f"the features of image {first + bad[0]} hold NaN or infinity, {len(bad)} image(s) in all")


def _merged(first: Moments | None, then: Moments) -> Moments:
    return then if first is None else first + then
