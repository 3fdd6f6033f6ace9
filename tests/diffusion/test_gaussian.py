"""The diffusion process: tables against first principles, and the bound against integrals."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.diffusion.gaussian import Chain, Process
from flexidit_jax.diffusion.likelihood import (
    discretized_log_likelihood,
    gaussian_kl,
    log_variance,
    variational_bound,
)

PROCESS = Process()


def test_alpha_bar_is_the_product_of_linear_betas() -> None:
    alpha_bar, product = [], 1.0
    for i in range(1000):
        product *= 1 - (1e-4 + (0.02 - 1e-4) * i / 999)
        alpha_bar.append(product)
    np.testing.assert_allclose(PROCESS.alpha_bar, alpha_bar, rtol=1e-12)
    assert PROCESS.alpha_bar.dtype == np.float64


@pytest.mark.parametrize("n", [2, 3, 7, 50, 250, 333, 999, 1000])
def test_kept_times(n: int) -> None:
    t = PROCESS.timesteps(n)
    assert len(t) == n
    assert (t[0], t[-1]) == (0, 999)
    steps = np.diff(t)
    assert steps.min() >= 1
    assert steps.max() - steps.min() <= 1  # evenly spaced, up to rounding


def test_kept_times_of_the_published_sampler() -> None:
    assert list(PROCESS.timesteps(250)[:4]) == [0, 4, 8, 12]
    assert list(PROCESS.timesteps(250)[-2:]) == [995, 999]
    assert list(PROCESS.timesteps(1)) == [999]


def test_grids_of_pixart() -> None:
    """diffusers keeps whole times and ends clean; the original takes real ones and ends at the noise of time 0."""
    kept = PROCESS.chain(20, "diffusers")
    assert kept.t[::-1].tolist() == [*range(999, 500, -50), *range(500, 49, -50)] and kept.t.dtype == int
    np.testing.assert_array_equal(kept.alpha_bar, PROCESS.alpha_bar[kept.t])
    assert kept.alpha_bar_prev[0] == 1
    real = PROCESS.chain(20, "pixart")
    np.testing.assert_allclose(real.t[::-1], 999 - 49.95 * np.arange(20), rtol=1e-12)
    np.testing.assert_allclose([real.end, real.alpha_bar[-1]], PROCESS.alpha_bar[[0, 999]], rtol=1e-12)
    low, high = np.log(PROCESS.alpha_bar[[49, 50]])
    np.testing.assert_allclose(np.log(real.alpha_bar[0]), low + 0.95 * (high - low), rtol=1e-12)
    whole = PROCESS.chain(999, "diffusers").t
    np.testing.assert_array_equal(whole, np.arange(1, 1000))
    np.testing.assert_allclose(PROCESS.chain(999, "pixart").alpha_bar, PROCESS.alpha_bar[1:], rtol=1e-12)


@pytest.mark.parametrize("n", [0, -1, 1001])
def test_kept_times_refused(n: int) -> None:
    with pytest.raises(UserError) as caught:
        PROCESS.timesteps(n)
    assert str(caught.value) == f"steps must lie in 1..1000 (the process has 1000), got {n}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"steps": 0}, "process.steps must be positive, got 0"),
        ({"beta_start": 0.0}, "process.beta_start must be positive, got 0.0"),
        ({"beta_end": 1.0}, "process.beta_end must lie in [beta_start, 1), got 1.0"),
        ({"beta_end": 1e-5}, "process.beta_end must lie in [beta_start, 1), got 1e-05"),
    ],
)
def test_process_refuses(words: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Process(**words)
    assert str(caught.value) == message


def bayes(chain: Chain, k: int, x0: float, x: float) -> tuple[float, float]:
    """Mean and variance of q(x_s | x_t, x_0) by multiplying two Gaussian densities in x_s."""
    before = chain.alpha_bar[k - 1]
    ratio = chain.alpha_bar[k] / before
    precision = 1 / (1 - before) + ratio / (1 - ratio)
    return (np.sqrt(before) * x0 / (1 - before) + np.sqrt(ratio) * x / (1 - ratio)) / precision, 1 / precision


@pytest.mark.parametrize("n", [None, 250, 10])
def test_chain_tables(n: int | None) -> None:
    chain = PROCESS.chain(n)
    np.testing.assert_array_equal(chain.t, np.arange(1000) if n is None else PROCESS.timesteps(n))
    np.testing.assert_array_equal(chain.alpha_bar, PROCESS.alpha_bar[chain.t])
    np.testing.assert_allclose(np.cumprod(1 - chain.beta), chain.alpha_bar, rtol=1e-10)
    for k in range(1, len(chain.t)):
        for x0, x in [(1.0, 0.0), (0.0, 1.0), (0.3, -1.2)]:
            mean, variance = bayes(chain, k, x0, x)
            np.testing.assert_allclose(chain.coef_x0[k] * x0 + chain.coef_x[k] * x, mean, rtol=1e-9)
        np.testing.assert_allclose(chain.log_posterior_variance[k], np.log(variance), rtol=1e-9)
    assert (chain.coef_x0[0], chain.coef_x[0]) == (1, 0)  # the last step lands on x0
    assert chain.log_posterior_variance[0] == chain.log_posterior_variance[1]
    np.testing.assert_array_equal(chain.log_beta, np.log(chain.beta))
    assert (chain.log_posterior_variance[1:] < chain.log_beta[1:]).all()
    for table in (chain.coef_x0, chain.coef_x, chain.x0_from_x, chain.x0_from_output, chain.log_beta):
        assert table.dtype == np.float64


def test_one_step_chain() -> None:
    chain = PROCESS.chain(1)
    assert np.isfinite(chain.log_posterior_variance).all()
    assert (chain.coef_x0[0], chain.coef_x[0]) == (1, 0)


def test_add_noise_and_back() -> None:
    rng = np.random.default_rng(0)
    x0, noise = rng.normal(size=(2, 4, 1, 3, 3, 2)).astype(np.float32)
    t = np.array([0, 10, 500, 999])
    xt = np.asarray(PROCESS.add_noise(x0, noise, t))
    for i, time in enumerate(t):
        alpha_bar = PROCESS.alpha_bar[time]
        expected = np.sqrt(alpha_bar) * x0[i] + np.sqrt(1 - alpha_bar) * noise[i]
        np.testing.assert_allclose(xt[i], expected, atol=1e-6)
        chain = PROCESS.chain()
        back = chain.x0_from_x[time] * expected + chain.x0_from_output[time] * noise[i]
        np.testing.assert_allclose(back, x0[i], atol=1e-6)


def test_the_marginal_is_reached_step_by_step() -> None:
    """Adding a little noise n times is adding it once: mean and variance of q(x_t | x_0)."""
    chain = PROCESS.chain(25)
    mean, variance = 1.0, 0.0
    for beta, alpha_bar in zip(chain.beta, chain.alpha_bar, strict=True):
        mean, variance = np.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        np.testing.assert_allclose([mean, variance], [np.sqrt(alpha_bar), 1 - alpha_bar], rtol=1e-9)


def test_log_variance_interpolates() -> None:
    assert log_variance(-1.0, -8.0, -2.0) == -8
    assert log_variance(1.0, -8.0, -2.0) == -2
    assert log_variance(0.0, -8.0, -2.0) == -5


@pytest.mark.parametrize(
    "numbers", [(0.3, -1.0, 0.3, -1.0), (0.0, 0.0, 1.0, 0.0), (0.5, -2.0, -0.2, 0.4), (0.0, 1.0, 0.3, -0.5)]
)
def test_gaussian_kl_against_an_integral(numbers: tuple[float, float, float, float]) -> None:
    mean1, logvar1, mean2, logvar2 = numbers
    x = np.linspace(mean1 - 12 * np.exp(logvar1 / 2), mean1 + 12 * np.exp(logvar1 / 2), 20001)

    def log_density(mean: float, logvar: float) -> np.ndarray:
        return -0.5 * (np.log(2 * np.pi) + logvar + (x - mean) ** 2 / np.exp(logvar))

    first = log_density(mean1, logvar1)
    integral = np.trapezoid(np.exp(first) * (first - log_density(mean2, logvar2)), x)
    np.testing.assert_allclose(gaussian_kl(*numbers), integral, atol=2e-6)


BINS = (np.arange(256) / 127.5 - 1).astype(np.float32)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.3), (0.9, 0.05), (-1.4, 0.5), (0.2, 4.0), (0.1, 0.004)])
def test_discretized_likelihood_is_a_distribution(mean: float, std: float) -> None:
    logvar = np.float32(2 * np.log(std))
    probability = np.exp(np.asarray(discretized_log_likelihood(BINS, np.float32(mean), logvar), np.float64))
    np.testing.assert_allclose(probability.sum(), 1, atol=1e-4)


def test_discretized_likelihood_against_the_normal_distribution() -> None:
    from scipy.stats import norm

    mean, std = 0.1, 0.4
    ours = np.exp(np.asarray(discretized_log_likelihood(BINS, np.float32(mean), np.float32(2 * np.log(std)))))
    edges = np.concatenate([[-np.inf], BINS[:-1] + 1 / 255, [np.inf]])
    exact = np.diff(norm.cdf((edges - mean) / std))
    # the tanh approximation is off by 4e-4 of a probability at most
    np.testing.assert_allclose(np.cumsum(ours), np.cumsum(exact), atol=4e-4)
    assert ours[0] > 2 * ours[1]  # open-ended
    assert discretized_log_likelihood(np.float32(0.5), np.float32(-0.5), np.float32(-12)) == np.log(np.float32(1e-12))


jitted_bound = jax.jit(
    variational_bound,
    static_argnums=0,
)


def bound(t: int, x0: np.ndarray, noise: np.ndarray, eps: np.ndarray, raw: float) -> np.ndarray:
    times = np.full(len(x0), t)
    xt = PROCESS.add_noise(x0, noise, times)
    return np.asarray(jitted_bound(PROCESS, x0, xt, times, eps, np.full_like(x0, raw)))


def test_variational_bound() -> None:
    rng = np.random.default_rng(0)
    x0 = rng.uniform(-1, 1, (3, 1, 4, 4, 2)).astype(np.float32)
    noise, error = rng.normal(size=(2, *x0.shape)).astype(np.float32)
    chain = PROCESS.chain()
    for t in (1, 400, 999):
        np.testing.assert_allclose(bound(t, x0, noise, noise, -1.0), 0, atol=1e-5)  # the true posterior itself
    t = 400
    low, high = chain.log_posterior_variance[t], chain.log_beta[t]
    kl = 0.5 * (-1 + high - low + np.exp(low - high))
    np.testing.assert_allclose(bound(t, x0, noise, noise, 1.0), kl / np.log(2), rtol=1e-2)
    moved = (chain.coef_x0[t] * chain.x0_from_output[t] * error) ** 2
    expected = (moved / (2 * np.exp(low))).mean((1, 2, 3, 4)) / np.log(2)  # a mean that is off, in bits
    np.testing.assert_allclose(bound(t, x0, noise, noise + error, -1.0), expected, rtol=1e-4)
    at_zero = bound(0, x0, noise, noise, 1.0)
    nats = discretized_log_likelihood(x0, x0, np.float32(chain.log_beta[0]))
    np.testing.assert_allclose(at_zero, -np.asarray(nats).mean((1, 2, 3, 4)) / np.log(2), rtol=1e-3)
