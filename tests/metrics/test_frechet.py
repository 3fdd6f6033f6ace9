"""Moments against numpy, the distance against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics.frechet import Moments, frechet_distance


def gaussian(mean: np.ndarray, covariance: np.ndarray, count: int = 11) -> Moments:
    return Moments(count, np.asarray(mean, float), np.asarray(covariance, float) * (count - 1))


def test_moments_against_numpy() -> None:
    features = (np.random.default_rng(0).normal(size=(40, 5)) * [1, 2, 3, 4, 5] + 100).astype(np.float32)
    moments = Moments.of(features)
    assert moments.count == 40
    np.testing.assert_allclose(moments.mean, features.astype(np.float64).mean(0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-9)


@pytest.mark.parametrize("cuts", [[20], [1, 2], [1, 39], [7, 13, 30]])
def test_merged_moments_are_those_of_the_union(cuts: list[int]) -> None:
    features = np.random.default_rng(1).normal(size=(40, 4)) + np.arange(40)[:, None]  # parts of unequal means
    first, *rest = (Moments.of(part) for part in np.split(features, cuts))
    merged = sum(rest, first)
    whole = Moments.of(features)
    assert merged.count == 40
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=1e-10)


def test_a_covariance_needs_two() -> None:
    with pytest.raises(UserError) as caught:
        _ = Moments.of(np.ones((1, 3))).covariance
    assert str(caught.value) == "a covariance needs at least 2 samples, got 1"


def test_distance_of_diagonal_gaussians() -> None:
    rng = np.random.default_rng(2)
    means, stds = rng.normal(size=(2, 6)), rng.uniform(0.1, 3, size=(2, 6))
    expected = np.sum((means[0] - means[1]) ** 2) + np.sum((stds[0] - stds[1]) ** 2)
    a, b = (gaussian(mean, np.diag(std**2), count) for mean, std, count in zip(means, stds, (5, 50), strict=True))
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-10)


def test_distance_of_gaussians_that_do_not_commute() -> None:
    """The trace of (S1 S2)^1/2 from the eigenvalues of the product itself."""
    rng = np.random.default_rng(3)
    roots = rng.normal(size=(2, 4, 4))
    first, second = roots @ roots.transpose(0, 2, 1)
    root_trace = np.sqrt(np.linalg.eigvals(first @ second).real).sum()
    expected = 4 * 0.5**2 + np.trace(first) + np.trace(second) - 2 * root_trace
    a, b = gaussian(np.zeros(4), first), gaussian(np.full(4, 0.5), second)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-9)
    np.testing.assert_allclose(frechet_distance(b, a), expected, rtol=1e-9)


@pytest.mark.parametrize("count", [200, 4])  # fewer vectors than dimensions: a singular covariance
def test_distance_to_itself_is_zero(count: int) -> None:
    moments = Moments.of(np.random.default_rng(4).normal(size=(count, 8)))
    assert abs(frechet_distance(moments, moments)) < 1e-6
    moved = Moments(moments.count, moments.mean + 0.5, moments.scatter)
    np.testing.assert_allclose(frechet_distance(moments, moved), 8 * 0.25, atol=1e-6)
