"""Solvers on data they can be checked against: x0 ~ N(mu, s^2), whose exact eps predictor is linear.

    x_t ~ N(sqrt(ab) mu, ab s^2 + 1 - ab),    eps(x, t) = sqrt(1 - ab) (x - sqrt(ab) mu) / (ab s^2 + 1 - ab)

The probability-flow ODE keeps (x - mean) / std of this marginal constant.
"""

from __future__ import annotations

from types import ModuleType

import jax
import numpy as np
import pytest

from flexidit_jax.common.types import Prediction
from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.diffusion.solvers import ddim, ddpm
from flexidit_jax.diffusion.steps import Steps, advance

PROCESS = Process()
MU, S = 0.7, 0.5
START = np.array([-2.0, -0.5, 1.0, 2.5])

step = jax.jit(advance)


def marginal(alpha_bar: float) -> tuple[float, float]:
    """Mean and variance of x_t."""
    return np.sqrt(alpha_bar) * MU, alpha_bar * S**2 + 1 - alpha_bar


def exact_eps(x: np.ndarray, alpha_bar: float) -> np.ndarray:
    mean, variance = marginal(alpha_bar)
    return np.sqrt(1 - alpha_bar) * (x - mean) / variance


def rows(table: Steps) -> list[Steps]:
    columns = [np.asarray(column) for column in table]
    return [Steps(*(column[k] for column in columns)) for k in range(len(table.t))]


def ddim_error(n: int) -> float:
    x, x0 = START, np.zeros_like(START)
    for row in rows(ddim.table(PROCESS, n)):
        x, x0 = step(row, x, x0, Prediction(exact_eps(np.asarray(x), PROCESS.alpha_bar[row.t]), None), 0 * START)
    mean, variance = marginal(PROCESS.alpha_bar[-1])
    return float(np.abs(x - (MU + S * (START - mean) / np.sqrt(variance))).max())


def test_ddim_converges_at_first_order() -> None:
    """Halving the step halves the error against the closed form of the ODE."""
    errors = np.array([ddim_error(n) for n in (20, 40, 80, 160)])
    np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), 1, atol=0.05)
    assert errors[-1] < 0.025


def test_ddim_in_one_step_lands_on_x0() -> None:
    (row,) = rows(ddim.table(PROCESS, 1))
    x, x0 = step(row, START, 0 * START, Prediction(exact_eps(START, PROCESS.alpha_bar[-1]), None), 1 + 0 * START)
    np.testing.assert_allclose(x, x0, rtol=1e-6)


def test_ddim_ignores_noise_and_variance() -> None:
    for row in rows(ddim.table(PROCESS, 5)):
        quiet, _ = step(row, START, 0 * START, Prediction(0.1 * START, None), 0 * START)
        loud, _ = step(row, START, 0 * START, Prediction(0.1 * START, 3 * START), 100 + 0 * START)
        np.testing.assert_array_equal(quiet, loud)


def ddpm_moments(n: int, learned: bool) -> list[tuple[float, float, float]]:
    """(alpha-bar reached, mean, variance) after every step, carried through the affine map each step is."""
    chain = PROCESS.chain(n)
    mean, variance = marginal(chain.alpha_bar[-1])
    reached = []
    for k, row in zip(range(n - 1, -1, -1), rows(ddpm.table(PROCESS, n)), strict=True):
        raw = None
        if learned:  # the exact reverse variance lies between the two ends when s < 1
            gain = chain.alpha_bar[k] * S**2 / (chain.alpha_bar[k] * S**2 + 1 - chain.alpha_bar[k])
            uncertainty = S**2 * (1 - gain)  # of x0 given x_t
            low, high = chain.log_posterior_variance[k], chain.log_beta[k]
            wanted = np.log(np.exp(low) * (k > 0) + chain.coef_x0[k] ** 2 * uncertainty)
            raw = np.full(2, 2 * (wanted - low) / (high - low) - 1 if k else 0.0)
            assert np.abs(raw).max() <= 1
        points = np.array([0.0, 1.0])
        prediction = Prediction(exact_eps(points, chain.alpha_bar[k]), raw)
        quiet, _ = step(row, points, 0 * points, prediction, 0 * points)
        noisy, _ = step(row, points, 0 * points, prediction, 1 + 0 * points)
        quiet, noisy = np.asarray(quiet, np.float64), np.asarray(noisy, np.float64)
        slope = quiet[1] - quiet[0]
        mean, variance = slope * mean + quiet[0], slope**2 * variance + (noisy[0] - quiet[0]) ** 2
        reached.append((chain.alpha_bar_prev[k], mean, variance))
    return reached


@pytest.mark.parametrize("n", [4, 10, 50])
def test_ddpm_with_the_right_variance_reaches_every_marginal(n: int) -> None:
    """At any number of steps: on Gaussian data the reverse steps are Gaussian too."""
    *between, (_, mean, variance) = ddpm_moments(n, learned=True)
    for alpha_bar, m, v in between:
        np.testing.assert_allclose((m, v), marginal(alpha_bar), rtol=2e-5)
    # the last step adds no noise: it ends on E[x0 | x_t] of the first kept time
    alpha_bar = PROCESS.alpha_bar[0]
    np.testing.assert_allclose(mean, MU, rtol=2e-5)
    np.testing.assert_allclose(variance, S**4 * alpha_bar / marginal(alpha_bar)[1], rtol=2e-5)


def test_ddpm_without_a_learned_variance_adds_the_posterior_one() -> None:
    chain = PROCESS.chain(10)
    for k, row in zip(range(9, -1, -1), rows(ddpm.table(PROCESS, 10)), strict=True):
        prediction = Prediction(0.1 * START, None)
        quiet, _ = step(row, START, 0 * START, prediction, 0 * START)
        noisy, _ = step(row, START, 0 * START, prediction, 1 + 0 * START)
        before, now = chain.alpha_bar_prev[k], chain.alpha_bar[k]
        posterior = (1 - now / before) * (1 - before) / (1 - now)
        np.testing.assert_allclose(np.asarray(noisy) - quiet, np.sqrt(posterior), rtol=1e-4)  # 0 at the end
    moments = ddpm_moments(1000, learned=False)
    np.testing.assert_allclose(moments[-1][1:], (MU, S**2), rtol=0.02)


@pytest.mark.parametrize("solver", [ddim, ddpm])
@pytest.mark.parametrize("n", [1, 2, 10, 1000])
def test_table(solver: ModuleType, n: int) -> None:
    table = solver.table(PROCESS, n)
    assert [np.shape(column) for column in table] == [(n,)] * len(table)
    np.testing.assert_array_equal(table.t, PROCESS.timesteps(n)[::-1])  # noise first, original times
    assert all(np.isfinite(column).all() for column in table)
    assert table.noisy[-1] == 0
    np.testing.assert_allclose(table.x0_from_x, 1 / np.sqrt(PROCESS.alpha_bar[table.t]), rtol=1e-12)


@pytest.mark.parametrize("solver", [ddim, ddpm])
def test_a_padded_table_is_the_same_table(solver: ModuleType) -> None:
    table = solver.table(PROCESS, 7)
    padded = table.padded(1000)
    assert [np.shape(column) for column in padded] == [(1000,)] * len(table)
    assert [column.dtype for column in padded] == [np.int32] + [np.float32] * 8
    for name, column, longer in zip(Steps._fields, table, padded, strict=True):
        np.testing.assert_array_equal(longer[:7], column.astype(longer.dtype), err_msg=name)
        assert not longer[7:].any(), name
    for k in range(7):
        for ours, expected in zip(padded.row(k), table, strict=True):
            assert np.shape(ours) == ()
            np.testing.assert_allclose(ours, expected[k], rtol=1e-7)


def test_advance_uses_every_column() -> None:
    row = Steps(t=0, x0_from_x=2.0, x0_from_output=3.0, cx=5.0, c0=7.0, c1=11.0, log_low=-2.0, log_high=4.0, noisy=1.0)
    x, x0_prev, output, variance, noise = 0.1, 0.2, 0.3, 0.5, 0.7
    x0 = 2 * x + 3 * output
    logvar = 0.75 * 4.0 + 0.25 * -2.0
    following, now = advance(row, x, x0_prev, Prediction(output, variance), noise)
    np.testing.assert_allclose(now, x0, rtol=1e-6)
    np.testing.assert_allclose(following, 5 * x + 7 * x0 + 11 * x0_prev + np.exp(logvar / 2) * noise, rtol=1e-6)
    fixed, _ = advance(row, x, x0_prev, Prediction(output, None), noise)
    np.testing.assert_allclose(fixed, 5 * x + 7 * x0 + 11 * x0_prev + np.exp(-1.0) * noise, rtol=1e-6)
    quiet, _ = advance(row._replace(noisy=0.0), x, x0_prev, Prediction(output, variance), noise)
    np.testing.assert_allclose(quiet, 5 * x + 7 * x0 + 11 * x0_prev, rtol=1e-6)
