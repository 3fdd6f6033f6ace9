"""The Frechet distance against closed forms and other evaluators; its error and its bias against draws."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics.frechet import at_infinity, bias, frechet, frechet_distance, intercept, too_few
from flexidit_jax.metrics.moments import Gaussian, Moments

Oracle = Mapping[str, np.ndarray]


def fitted(features: np.ndarray) -> Gaussian:
    return Moments.of(features).gaussian


@pytest.mark.parametrize(("key", "count"), [("fid", 500), ("fid_first40", 40)])  # 40: fewer than dimensions
def test_it_is_the_distance_of_other_evaluators(oracle: Oracle, key: str, count: int) -> None:
    reference, sample = fitted(oracle["reference"]), oracle["sample"][:count]
    assert frechet_distance(fitted(sample), reference) == pytest.approx(oracle[key], rel=1e-7)
    found = frechet(sample, fitted(sample), reference)
    assert found.value == pytest.approx(oracle[key], rel=1e-7)
    assert 0 < found.error < found.value


def test_a_reference_may_be_a_mean_and_a_covariance(oracle: Oracle) -> None:
    reference = Gaussian(oracle["mu_reference"], oracle["sigma_reference"])
    assert frechet_distance(fitted(oracle["sample"]), reference) == pytest.approx(oracle["fid"], rel=1e-9)


def test_distance_of_diagonal_gaussians() -> None:
    rng = np.random.default_rng(2)
    means, stds = rng.normal(size=(2, 6)), rng.uniform(0.1, 3, size=(2, 6))
    expected = np.sum((means[0] - means[1]) ** 2) + np.sum((stds[0] - stds[1]) ** 2)
    a, b = (Gaussian(mean, np.diag(std**2)) for mean, std in zip(means, stds, strict=True))
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-10)


def test_distance_of_gaussians_that_do_not_commute() -> None:
    """The trace of (S1 S2)^1/2 from the eigenvalues of the product itself."""
    rng = np.random.default_rng(3)
    roots = rng.normal(size=(2, 4, 4))
    first, second = roots @ roots.transpose(0, 2, 1)
    root_trace = np.sqrt(np.linalg.eigvals(first @ second).real).sum()
    expected = 4 * 0.5**2 + np.trace(first) + np.trace(second) - 2 * root_trace
    a, b = Gaussian(np.zeros(4), first), Gaussian(np.full(4, 0.5), second)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-9)
    np.testing.assert_allclose(frechet_distance(b, a), expected, rtol=1e-9)


@pytest.mark.parametrize("count", [200, 4])  # fewer vectors than dimensions: a singular covariance
def test_distance_to_itself_is_zero_and_never_below(count: int) -> None:
    for seed in range(5):
        own = fitted(np.random.default_rng(seed).normal(size=(count, 8)))
        assert 0 <= frechet_distance(own, own) < 1e-6
        moved = Gaussian(own.mean + 0.5, own.covariance)
        np.testing.assert_allclose(frechet_distance(own, moved), 8 * 0.25, atol=1e-6)


def test_an_influence_is_what_a_sample_weighs(oracle: Oracle) -> None:
    """The derivative of the distance by the weight of a sample, moments normalised by N."""
    sample, reference = oracle["sample"].astype(np.float64), fitted(oracle["reference"])

    def weighed(weights: np.ndarray) -> float:
        mean = weights @ sample / weights.sum()
        centred = sample - mean
        return frechet_distance(
            Gaussian(mean, (centred * weights[:, None]).T @ centred / (weights.sum() - 1)), reference
        )

    influence = frechet(sample, fitted(sample), reference).influence
    assert influence.shape == (500,)
    step, found = 1e-4, []
    for i in range(4):
        weights = np.ones(500)
        weights[i] += step
        more = weighed(weights)
        weights[i] -= 2 * step
        found.append((more - weighed(weights)) / (2 * step) * 500)
    np.testing.assert_allclose(np.diff(influence[:4]), np.diff(found), rtol=0.01)


def test_the_standard_error_is_the_spread_of_draws() -> None:
    rng = np.random.default_rng(0)
    scale = np.linspace(0.2, 1.5, 8)
    reference = Gaussian(np.full(8, 0.3), np.eye(8))
    draws = [rng.normal(size=(300, 8)) * scale for _ in range(200)]
    found = [frechet(draw, fitted(draw), reference) for draw in draws]
    spread = np.std([one.value for one in found])
    assert np.median([one.error for one in found]) == pytest.approx(spread, rel=0.15)


def test_the_bias_is_what_few_samples_add() -> None:
    rng = np.random.default_rng(1)
    variances = np.arange(1, 13) ** -1.3
    truth = Gaussian(np.zeros(12), np.diag(variances))

    def drawn(count: int) -> Gaussian:
        return fitted(rng.normal(size=(count, 12)) * np.sqrt(variances))

    one = np.mean([frechet_distance(drawn(300), truth) for _ in range(300)])
    both = np.mean([frechet_distance(drawn(300), drawn(500)) for _ in range(300)])
    assert bias(truth, 300) == pytest.approx(one, rel=0.05)
    assert bias(truth, 300, 500) == pytest.approx(both, rel=0.05)
    assert bias(truth, 600) == bias(truth, 300) / 2


def test_a_direction_without_variance_adds_no_bias() -> None:
    assert bias(Gaussian(np.zeros(3), np.diag([0.0, 0.0, 2.0])), 10) == pytest.approx((1.25 * 2 + 0.5) / 10)


def test_the_line_is_that_of_other_evaluators(oracle: Oracle) -> None:
    reference, sizes = fitted(oracle["reference"]), oracle["fid_prefix_n"]
    distances = [frechet_distance(fitted(oracle["sample"][:size]), reference) for size in sizes]
    np.testing.assert_allclose(distances, oracle["fid_prefix"], rtol=1e-9)
    assert intercept(sizes, distances)[0] == pytest.approx(oracle["fid_infinity"], rel=1e-9)


def test_a_straight_line_has_no_error_and_noise_has() -> None:
    sizes = np.array([100, 200, 400, 800])
    value, error = intercept(sizes, 3 + 50 / sizes)
    assert (value, error) == (pytest.approx(3), pytest.approx(0, abs=1e-9))
    noise = np.array([0.1, -0.1, 0.1, -0.1])
    fit, covariance = np.polyfit(1 / sizes, noise, 1, cov=True)
    np.testing.assert_allclose(intercept(sizes, noise), (fit[1], np.sqrt(covariance[1, 1])), rtol=1e-6)


def test_at_infinity_draws_subsets_of_all(oracle: Oracle) -> None:
    reference, seen = fitted(oracle["reference"]), []

    def distance(numbers: np.ndarray) -> float:
        seen.append(numbers)
        return frechet_distance(fitted(oracle["sample"][numbers]), reference)

    value, error = at_infinity(distance, 500, least=100, points=5)
    assert [len(numbers) for numbers in seen] == [100, 200, 300, 400, 500]
    assert all((np.diff(numbers) > 0).all() for numbers in seen)  # none twice, ascending as a file is read
    assert seen[0][0] != 0 or seen[0][-1] != 99  # drawn, and not the first ones
    assert abs(value - oracle["fid_infinity"]) < 0.15 and 0 < error < 0.1


def test_too_few_for_a_line() -> None:
    with pytest.raises(UserError) as caught:
        at_infinity(lambda numbers: 0.0, 9999)
    assert str(caught.value) == (
        "FID-infinity draws a line through subsets of 5,000 to all samples, and 9,999 are too few; 10,000 would do"
    )


def test_below_the_width_something_else_is_named() -> None:
    assert too_few(2049, 2048) is None
    assert too_few(500, 2048) == (
        "500 samples are too few for a Frechet distance of 2,048 features: their covariance is singular and the bias"
        " outweighs what is measured; KID has no bias at any number, or draw more than 2,048"
    )


def test_statistics_of_two_extractors_are_refused() -> None:
    a, b = Gaussian(np.zeros(3), np.eye(3)), Gaussian(np.zeros(4), np.eye(4))
    for compared in (lambda: frechet_distance(a, b), lambda: frechet(np.zeros((5, 3)), a, b)):
        with pytest.raises(UserError) as caught:
            compared()
        assert str(caught.value) == (
            "statistics of 3 features cannot be compared with statistics of 4; both must come from one extractor"
        )
