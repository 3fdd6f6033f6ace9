"""Solvers on data they can be checked against: the exact network is known, and so is where its ODE leads.

x0 ~ N(mu, var0) given a class and N(mu, var1) without one. With x_t = alpha x0 + sigma noise each exact prediction is
linear in x; guidance by a scale s mixes the two. Along the guided ODE

    x - alpha mu  is proportional to  (alpha^2 var0 + sigma^2)^(s/2) (alpha^2 var1 + sigma^2)^((1-s)/2)

s = 1 is the unguided ODE, which keeps (x - mean) / std of the marginal of x_t.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import jax
import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Prediction
from flexidit_jax.diffusion import flow, gaussian
from flexidit_jax.diffusion.solvers import ddim, ddpm, dpmpp_2m, euler, heun, make_table, sa_solver, unipc
from flexidit_jax.diffusion.steps import Carry, Steps, advance, begin
from flexidit_jax.sampling.guidance import guided

GAUSSIAN, FLOW = gaussian.Process(), flow.Process()
MU, VAR0, VAR1 = 0.7, 0.25, 1.5
START = np.array([-2.0, -0.5, 1.0, 2.5])
Level = tuple[float, float]  # alpha, sigma

step = jax.jit(advance)


# ---------------------------------------------------------------- The toy


def levels(chain: Any) -> dict[float, Level]:
    """(alpha, sigma) by the time the network is told."""
    both = (1 - chain.s, chain.s) if isinstance(chain, flow.Chain) else (chain.signal, chain.sigma)
    return dict(zip(chain.t.astype(float), zip(*both, strict=True), strict=True))


def marginal(level: Level, var: float = VAR0) -> tuple[float, float]:
    """Mean and variance of x_t."""
    alpha, sigma = level
    return alpha * MU, alpha**2 * var + sigma**2


def exact(row: Steps, x: np.ndarray, level: Level, scale: float = 1.0) -> Prediction:
    """The guided prediction of the exact network, in whatever terms the row reads x0 off it."""
    x = np.asarray(x, np.float64)

    def predict(var: float) -> Prediction:
        mean, variance = marginal(level, var)
        x0 = MU + level[0] * var / variance * (x - mean)  # E[x0 | x_t]
        return Prediction((x0 - row.x0_from_x * x) / row.x0_from_output, None)

    return guided(predict(VAR0), predict(VAR1), scale, None)


def rows(table: Steps) -> list[Steps]:
    return [Steps(*numbers) for numbers in np.stack(table, axis=1)]


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    """The numbers of a table are float64 until the engine takes them: orders show to three digits."""
    with jax.enable_x64(True):
        yield


def run(table: Steps, chain: Any, scale: float = 1.0) -> np.ndarray:
    """x after every row, from START, with no noise: [rows, 4]."""
    carry, reached = begin(START), []
    for row in rows(table):
        carry = step(row, carry, exact(row, carry.x, levels(chain)[row.t], scale), 0 * START)
        reached.append(np.asarray(carry.x))
    return np.array(reached)


def solution(start: Level, end: Level, scale: float = 1.0) -> np.ndarray:
    """Where the ODE carries START."""

    def size(level: Level) -> float:
        shares = ((VAR0, scale), (VAR1, 1 - scale))
        return float(np.prod([marginal(level, var)[1] ** (share / 2) for var, share in shares]))

    return end[0] * MU + size(end) / size(start) * (START - start[0] * MU)


def covariances(table: Steps, chain: Any, variance: float) -> list[np.ndarray]:
    """Of (x, x_last, x0_prev, z_last) after every row, x_T having this variance.

    A row is affine in them and in its noise; the map is read off what it does to the axes.
    """
    matrix, after = np.diag([variance, 0.0, 0.0, 0.0]), []
    axes = np.concatenate([np.zeros((1, 5)), np.eye(5)])  # the origin, the carry's four, the noise
    for row in rows(table):
        carry = Carry(*axes[:, :4].T, lost=np.full(len(axes), -1.0))
        out = step(row, carry, exact(row, carry.x, levels(chain)[row.t]), axes[:, 4])
        out = np.stack(out[:4], axis=1)
        change = out[1:] - out[0]
        matrix = change[:4].T @ matrix @ change[:4] + np.outer(change[4], change[4])
        after.append(matrix)
    return after


def log_snr_chain(n: int) -> gaussian.Chain:
    """n + 1 levels between the same two ends, whatever n; the last row of a table over it is left out.

    Short and long steps alternate: a multistep solver that takes them for equal loses an order.
    """
    lengths = np.resize([1.0, 2.0], n)
    half_log_snr = 2.0 - 4.0 * np.append(0.0, np.cumsum(lengths)) / lengths.sum()  # ascending noise
    return gaussian.Chain(np.arange(n + 1), 1 / (1 + np.exp(-2 * half_log_snr)))


# ---------------------------------------------------------------- Order of convergence


def gaussian_error(over: Any, n: int, scale: float) -> float:
    chain = log_snr_chain(n)
    start, end = ((chain.signal[i], chain.sigma[i]) for i in (-1, 0))
    return float(np.abs(run(over(chain), chain, scale)[n - 1] - solution(start, end, scale)).max())


def multistep_error(over: Any, n: int, scale: float) -> float:
    """Of a flow between two levels with signal and noise, as `log_snr_chain` has them."""
    noisier = log_snr_chain(n)
    s = 1 / (1 + np.exp(noisier.half_log_snr))
    chain = flow.Chain(1000 * s, s, -s)
    start, end = ((1 - s[i], s[i]) for i in (-1, 0))
    return float(np.abs(run(over(chain), chain, scale)[n - 1] - solution(start, end, scale)).max())


def flow_error(over: Any, n: int, scale: float) -> float:
    chain = FLOW.chain(n)
    return float(np.abs(run(over(chain), chain, scale)[-1] - solution((0.0, 1.0), (1.0, 0.0), scale)).max())


def silent(chain: gaussian.Chain) -> Steps:
    return sa_solver.over(chain, np.zeros(len(chain.t)))


@pytest.mark.parametrize("scale", [1.0, 1.5, 3.0])
@pytest.mark.parametrize(
    ("error", "over", "order"),
    [
        (gaussian_error, ddim.over, 1),
        (gaussian_error, dpmpp_2m.over, 2),
        (gaussian_error, silent, 2),
        (flow_error, euler.over, 1),
        (flow_error, heun.over, 2),
        (multistep_error, dpmpp_2m.over, 2),
        (multistep_error, unipc.over, 3),
    ],
    ids=["ddim", "dpmpp_2m", "sa_solver", "euler", "heun", "dpmpp_2m of a flow", "unipc"],
)
def test_order_of_convergence(error: Any, over: Any, order: int, scale: float) -> None:
    """Halving the step divides the error by 2^order, against the closed form of the (guided) ODE."""
    errors = np.array([error(over, n, scale) for n in (64, 128, 256)])
    slopes = np.log2(errors[:-1] / errors[1:])
    np.testing.assert_allclose(slopes, order, atol=0.2)
    np.testing.assert_allclose(slopes[-1], order, atol=0.1)
    assert errors[-1] < (0.01 if order == 1 else 6e-5)


@pytest.mark.parametrize("grid", gaussian.GRIDS)
def test_a_grid_ends_where_it_says(grid: str) -> None:
    """On clean data, or at the noise of time 0; the lowest row is of first order in all."""
    chain, kept = GAUSSIAN.chain(200, grid), GAUSSIAN.alpha_bar[0] if grid == "pixart" else 1.0
    end = kept**0.5, (1 - kept) ** 0.5
    for solver, error in ((dpmpp_2m, 5e-3), (ddim, 3e-2)):
        table = solver.table(GAUSSIAN, 200, grid=grid)
        np.testing.assert_array_equal(table.t, chain.t[::-1])
        reached = solution((chain.signal[-1], chain.sigma[-1]), end)
        np.testing.assert_allclose(run(table, chain)[-1], reached, atol=error)
        share = end[1] / chain.sigma[0]
        last = [column[-1] for column in (table.cx, table.c0, table.c1)]
        np.testing.assert_allclose(last, [share, end[0] - share * chain.signal[0], 0], atol=1e-12)
    table = sa_solver.table(GAUSSIAN, 20, grid=grid)
    np.testing.assert_array_equal(table.t, GAUSSIAN.timesteps(20, grid)[::-1])
    assert (table.cx[-1], table.c0[-1]) == (0, 1)


def test_which_rows_are_of_first_order() -> None:
    """The first and the last rows of the multistep solvers are DDIM's, and only those."""
    chain = GAUSSIAN.chain(12)
    plain = ddim.over(chain)
    for table, last in ((dpmpp_2m.over(chain), 1), (silent(chain), 2)):
        same = np.isclose(table.cx, plain.cx) & np.isclose(table.c0, plain.c0) & (table.c1 == 0)
        assert same.tolist() == [True] + [False] * (11 - last) + [True] * last


def test_dpmpp_2m_takes_the_data_prediction_half_way_through_the_step() -> None:
    """On the line through the last two; steps of unequal lengths, at which the line's two ends cannot be confused."""
    chain = log_snr_chain(8)
    table, at = dpmpp_2m.over(chain), chain.half_log_snr[::-1]  # a prediction that is lambda itself
    for k in range(1, 8):
        whole = table.c0[k] + table.c1[k]
        reached = (table.c0[k] * at[k] + table.c1[k] * at[k - 1]) / whole
        np.testing.assert_allclose(reached, (at[k] + at[k + 1]) / 2, rtol=1e-9)
        np.testing.assert_allclose(whole, ddim.over(chain).c0[k], rtol=1e-12)


# ---------------------------------------------------------------- Marginals of the stochastic ones


def ddpm_moments(n: int, learned: bool) -> list[tuple[float, float, float]]:
    """(alpha-bar reached, mean, variance) after every step, carried through the affine map each step is."""
    chain = GAUSSIAN.chain(n)
    mean, variance = marginal((chain.signal[-1], chain.sigma[-1]))
    reached = []
    for k, row in zip(range(n - 1, -1, -1), rows(ddpm.table(GAUSSIAN, n)), strict=True):
        raw = None
        if learned:  # the exact reverse variance lies between the two ends when var0 < 1
            gain = chain.alpha_bar[k] * VAR0 / (chain.alpha_bar[k] * VAR0 + 1 - chain.alpha_bar[k])
            uncertainty = VAR0 * (1 - gain)  # of x0 given x_t
            low, high = chain.log_posterior_variance[k], chain.log_beta[k]
            wanted = np.log(np.exp(low) * (k > 0) + chain.coef_x0[k] ** 2 * uncertainty)
            raw = np.full(2, 2 * (wanted - low) / (high - low) - 1 if k else 0.0)
            assert np.abs(raw).max() <= 1
        points = np.array([0.0, 1.0])
        prediction = exact(row, points, (chain.signal[k], chain.sigma[k]))._replace(variance=raw)
        quiet = np.asarray(step(row, begin(points), prediction, 0 * points).x)
        noisy = np.asarray(step(row, begin(points), prediction, 1 + 0 * points).x)
        slope = quiet[1] - quiet[0]
        mean, variance = slope * mean + quiet[0], slope**2 * variance + (noisy[0] - quiet[0]) ** 2
        reached.append((chain.alpha_bar_prev[k], mean, variance))
    return reached


@pytest.mark.parametrize("n", [4, 10, 50])
def test_ddpm_with_the_right_variance_reaches_every_marginal(n: int) -> None:
    """At any number of steps: on Gaussian data the reverse steps are Gaussian too."""
    *between, (_, mean, variance) = ddpm_moments(n, learned=True)
    for alpha_bar, m, v in between:
        np.testing.assert_allclose((m, v), marginal((np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar))), rtol=2e-5)
    # the last step adds no noise: it ends on E[x0 | x_t] of the first kept time
    alpha_bar = GAUSSIAN.alpha_bar[0]
    np.testing.assert_allclose(mean, MU, rtol=2e-5)
    np.testing.assert_allclose(variance, VAR0**2 * alpha_bar / (alpha_bar * VAR0 + 1 - alpha_bar), rtol=2e-5)


def test_ddpm_without_a_learned_variance_adds_the_posterior_one() -> None:
    chain = GAUSSIAN.chain(10)
    for k, row in zip(range(9, -1, -1), rows(ddpm.table(GAUSSIAN, 10)), strict=True):
        prediction = Prediction(0.1 * START, None)
        quiet, noisy = (step(row, begin(START), prediction, z + 0 * START).x for z in (0, 1))
        before, now = chain.alpha_bar_prev[k], chain.alpha_bar[k]
        posterior = (1 - now / before) * (1 - before) / (1 - now)
        np.testing.assert_allclose(np.asarray(noisy) - quiet, np.sqrt(posterior), rtol=1e-9)  # 0 at the end
    moments = ddpm_moments(1000, learned=False)
    np.testing.assert_allclose(moments[-1][1:], (MU, VAR0), rtol=0.02)


def sa_variance_error(n: int, tau: float) -> float:
    """The largest relative error of the variance over the levels reached, x_T having the right one."""
    chain = log_snr_chain(n)
    wanted = [marginal(level)[1] for level in zip(chain.signal, chain.sigma, strict=True)][::-1]
    matrices = covariances(sa_solver.over(chain, np.full(n + 1, tau)), chain, wanted[0])
    got = np.array([matrix[0, 0] for matrix in matrices[:-1]])
    return float(np.abs(got / wanted[1:] - 1).max())


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5])
def test_sa_solver_keeps_the_marginal_variance_whatever_the_noise(tau: float) -> None:
    """tau sets how stochastic the path is, not where it leads: the error vanishes with the step's square."""
    errors = np.array([sa_variance_error(n, tau) for n in (64, 128, 256)])
    np.testing.assert_allclose(np.log2(errors[:-1] / errors[1:]), 2, atol=0.3)
    assert errors[-1] < 1e-3


def test_sa_solver_is_stochastic_in_the_middle_only() -> None:
    table = make_table("sa_solver", GAUSSIAN, 50)
    np.testing.assert_array_equal(table.noisy == 1, (table.t >= 200) & (table.t <= 800))
    chain = GAUSSIAN.chain(50)
    start = marginal((chain.signal[-1], chain.sigma[-1]))[1]
    np.testing.assert_allclose(covariances(table, chain, start)[-1][0, 0], VAR0, rtol=0.02)
    assert not sa_solver.table(GAUSSIAN, 50, tau=0.0).noisy.any()
    everywhere = sa_solver.table(GAUSSIAN, 50, tau=0.3, between=(0, 1)).noisy
    assert everywhere[:-1].all() and not everywhere[-1]


# ---------------------------------------------------------------- Tables


EVERY = [(GAUSSIAN, ddim), (GAUSSIAN, ddpm), (GAUSSIAN, dpmpp_2m), (GAUSSIAN, sa_solver), (FLOW, euler), (FLOW, heun)]
EVERY += [(FLOW, dpmpp_2m), (FLOW, unipc)]


@pytest.mark.parametrize(("process", "solver"), EVERY)
@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000])
def test_table(process: Any, solver: ModuleType, n: int) -> None:
    table = solver.table(process, n)
    assert {np.shape(column) for column in table} == {(len(table.t),)}
    assert all(np.isfinite(column).all() for column in table)
    chain = process.chain(n)
    wanted = [2] * (n - 1) + [1] if solver is heun else [1] * n
    np.testing.assert_array_equal(table.evaluations, wanted)
    first_of_step = np.searchsorted(table.step, np.arange(n))
    np.testing.assert_array_equal(table.t[first_of_step], chain.t[::-1])  # noise first, the original times
    # the last row lands on x0, without history or noise
    last = rows(table)[-1]
    assert (last.cx, last.c0, last.c1, last.noisy) == (0, 1, 0, 0)
    # the first has no history to ask
    assert [rows(table)[0]._asdict()[name] for name in ("kx", "kl", "k0", "k1", "kz", "c1")] == [1, 0, 0, 0, 0, 0]
    assert table.rows().dtype == np.float32
    np.testing.assert_allclose(Steps(*table.rows().T).c0, table.c0, rtol=1e-6)


def test_the_right_x0_is_read_off_the_output() -> None:
    for process, output in ((GAUSSIAN, lambda x0, z: z), (FLOW, lambda x0, z: z - x0)):
        table = make_table("ddim" if process is GAUSSIAN else "heun", process, 7)
        x0, z = START, START[::-1]
        for row in rows(table):
            alpha, sigma = levels(process.chain(7))[row.t]
            carry = step(row, begin(alpha * x0 + sigma * z), Prediction(output(x0, z), None), 0 * z)
            np.testing.assert_allclose(carry.x0_prev, x0, atol=1e-12)


@pytest.mark.parametrize(
    ("solver", "process", "message"),
    [
        ("ddpm", FLOW, "solver 'ddpm' does not suit the flow process; these do: dpmpp_2m, euler, heun, unipc"),
        ("euler", GAUSSIAN, "solver 'euler' does not suit the gaussian process; these do: ddim, ddpm, dpmpp_2m, sa_"),
        ("huen", FLOW, "no 'huen' in solvers/; did you mean 'heun'?"),
        ({"name": "sa_solver", "tua": 1.0}, GAUSSIAN, "unknown config key 'solver.tua'; did you mean 'tau'?"),
        ({"name": "sa_solver", "tau": -1.0}, GAUSSIAN, "solver.tau must be at least 0, got -1.0"),
        ({"name": "sa_solver", "tau": np.nan}, GAUSSIAN, "solver.tau must be at least 0, got nan"),
        ({"name": "sa_solver", "tau": np.inf}, GAUSSIAN, "solver.tau must be finite, got inf"),
        (
            {"name": "sa_solver", "tau": 1e30},
            GAUSSIAN,
            "solver {'name': 'sa_solver', 'tau': 1e+30} makes rows that are",
        ),
        (
            {"name": "sa_solver", "between": 0.5},
            GAUSSIAN,
            "solver.between must be (lowest, highest) share of T, within",
        ),
        ({"name": "sa_solver", "between": (0.8, 0.2)}, GAUSSIAN, "solver.between must be (lowest, highest) share of T"),
        ({"name": "sa_solver", "between": (-1, 2)}, GAUSSIAN, "solver.between must be (lowest, highest) share of T"),
        ({"name": "sa_solver", "between": (0, np.nan)}, GAUSSIAN, "solver.between must be finite, got nan at [1]"),
        ({"name": "sa_solver", "between": "ab"}, GAUSSIAN, "solver.between must be an array of numbers, got 'ab'"),
        ({"name": "ddim", "steps": 3}, GAUSSIAN, "unknown config key 'solver.steps'"),
        ({"name": "ddim", "grid": "diffuser"}, GAUSSIAN, "no solver.grid 'diffuser'; did you mean 'diffusers'?"),
        ({"name": "unipc", "grid": "dit"}, FLOW, "no solver.grid 'dit'; known: diffusers, diffusers_euler, even, wan"),
        ({"name": "ddpm", "grid": "dit"}, GAUSSIAN, "solver.grid is a key of ddim and dpmpp_2m and euler and heun and"),
        ({"tau": 1.0}, GAUSSIAN, "solver wants a name, such as"),
    ],
)
def test_refusals(solver: Any, process: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        make_table(solver, process, 4)
    assert str(caught.value).startswith(message)


def test_advance_uses_every_column() -> None:
    names = ("x0_from_x", "x0_from_output", "kx", "kl", "k0", "k1", "kz", "cx", "c0", "c1")
    weights = dict(zip(names, (2.0, 3.0, 5.0, 7.0, 11.0, 13.0, 17.0, 19.0, 23.0, 29.0), strict=True))
    row = Steps(step=0.0, t=0.0, **weights, log_low=-2.0, log_high=4.0, noisy=1.0)
    carry = Carry(x=0.1, x_last=0.2, x0_prev=0.3, z_last=0.4, lost=-1.0)
    output, variance, noise = 0.5, 0.5, 0.7
    x0 = 2 * 0.1 + 3 * output
    corrected = 5 * 0.1 + 7 * 0.2 + 11 * x0 + 13 * 0.3 + 17 * 0.4
    x = 19 * corrected + 23 * x0 + 29 * 0.3
    for raw, noisy, std in ((variance, 1.0, np.exp(1.25)), (None, 1.0, np.exp(-1.0)), (variance, 0.0, 0.0)):
        after = advance(row._replace(noisy=noisy), carry, Prediction(output, raw), noise)
        last = noise if noisy else 0.3  # without noise, x0 of the row before
        np.testing.assert_allclose(after, (x + std * noise, corrected, x0, last, -1), rtol=1e-12)
