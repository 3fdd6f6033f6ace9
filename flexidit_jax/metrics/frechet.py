"""The Frechet distance between two Gaussians, from feature moments gathered in a stream."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flexidit_jax.common.errors import UserError


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
        """Moments of [N, D] features."""
        features = np.asarray(features, np.float64)
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


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1 S2)^1/2).

    The last trace is the sum of square roots of the eigenvalues of the symmetric
    S1^1/2 S2 S1^1/2, which are those of S1 S2: no matrix square root of a product is taken.
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ b.covariance @ root)
    distance = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance) + np.trace(b.covariance)
    return float(distance - 2 * np.sqrt(np.clip(cross, 0, None)).sum())
