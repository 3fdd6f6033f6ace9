"""Moments in a stream against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics.moments import BLOCK, Gaussian, Moments, MomentStream, check_finite, moments_of


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


def stream_of(count: int, width: int = 3) -> np.ndarray:
    rng = np.random.default_rng(5)
    return (rng.normal(size=(count, width)) + np.linspace(0, 9, count)[:, None]).astype(np.float32)


@pytest.mark.parametrize("size", [1, 7, 100, BLOCK, 2 * BLOCK + 1, 5000])
def test_the_bits_are_the_same_however_images_were_batched(size: int) -> None:
    features = stream_of(2 * BLOCK + 300)
    whole = moments_of([features])
    batched = moments_of(features[begin : begin + size] for begin in range(0, len(features), size))
    assert batched.count == whole.count == len(features)
    np.testing.assert_array_equal(batched.mean, whole.mean)
    np.testing.assert_array_equal(batched.scatter, whole.scatter)
    np.testing.assert_allclose(whole.covariance, np.cov(features.astype(np.float64), rowvar=False), rtol=1e-12)


def test_a_stream_goes_on_from_its_whole_blocks() -> None:
    features = stream_of(3 * BLOCK)
    first = MomentStream()
    first.add(features[: BLOCK + 50])
    assert (first.count, first.whole.count) == (BLOCK + 50, BLOCK)
    then = MomentStream(first.whole)
    assert then.count == BLOCK
    then.add(features[BLOCK:])
    np.testing.assert_array_equal(then.moments.scatter, moments_of([features]).scatter)


def test_a_stream_can_be_asked_and_goes_on() -> None:
    features = stream_of(BLOCK + 10)
    stream = MomentStream()
    for part in np.split(features, [5, 900]):
        stream.add(part)
        np.testing.assert_allclose(stream.moments.mean, features[: stream.count].mean(0, np.float64), rtol=1e-12)
    np.testing.assert_array_equal(stream.moments.scatter, moments_of([features]).scatter)


def test_no_features_have_no_moments() -> None:
    with pytest.raises(UserError) as caught:
        _ = moments_of([])
    assert str(caught.value) == "there are no features to take moments of"


def test_another_width_is_refused() -> None:
    stream = MomentStream()
    stream.add(np.ones((2, 3)))
    with pytest.raises(UserError) as caught:
        stream.add(np.ones((2, 4)))
    assert str(caught.value) == "features of 3 numbers are followed by features of 4"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_no_numbers_are_refused_by_image(bad: float) -> None:
    features = np.ones((6, 3), np.float32)
    features[[4, 5], 1] = bad
    stream = MomentStream()
    stream.add(np.ones((10, 3)))
    with pytest.raises(UserError) as caught:
        stream.add(features)
    assert str(caught.value) == "the features of image 14 hold NaN or infinity, 2 image(s) in all"
    with pytest.raises(UserError):
        Moments.of(features)


def test_large_features_are_numbers() -> None:
    check_finite(np.full((2, 4), 3e38, np.float32))


def test_a_root_squared_is_the_covariance() -> None:
    gaussian = Moments.of(stream_of(40)).gaussian
    np.testing.assert_allclose(gaussian.root @ gaussian.root, gaussian.covariance, rtol=1e-10)
    np.testing.assert_allclose(gaussian.variances, np.linalg.eigvalsh(gaussian.covariance), rtol=1e-12)
    assert gaussian.root is gaussian.root  # taken once
    assert (gaussian.count, Gaussian(gaussian.mean, gaussian.covariance).count) == (40, None)
