"""Solvers in the engine: histories across a change of patch size, two evaluations a step, and what they cost."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
import pytest

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Patch
from flexidit_jax.diffusion import flow
from flexidit_jax.models.build import build_dit, init
from flexidit_jax.models.flexify import flexify
from flexidit_jax.sampling.engine import compiled_programs

P2, P4 = (1, 2, 2), (1, 4, 4)
LABELS = [1, 2, 3]
STEPS = 6
#: in the order executed; the change comes where both multistep solvers use their histories
SWITCH = "4:3,2:3"
PATCHES = [P4] * 3 + [P2] * 3

Output = Callable[[int, np.ndarray, float], np.ndarray]


@pytest.fixture(scope="module")
def flowing() -> FlexiDiT:
    """A flow-matching model with modes 2 and 4, nothing in it zero."""
    classes = {"name": "classes", "classes": 4}
    model = build_dit((1, 8, 8, 4), classes, width=32, depth=1, num_heads=2, learn_variance=False)
    params = flexify(init(model, jax.random.key(0)), [P2, P4])
    rng = np.random.default_rng(0)
    shaken = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), params)
    return FlexiDiT(model, shaken, flow.Process(shift=2.0), None)


def sample(model: FlexiDiT, **words: object) -> np.ndarray:
    return model.sample(LABELS, **{"steps": STEPS, "guidance": 1.0, "decode": False, "progress": False, **words})


def outputs(model: FlexiDiT, guidance: float, patches: list[Patch] = PATCHES) -> Output:
    """The network's output at a step, guided by the null condition at the patch of that step."""

    def output(k: int, x: np.ndarray, t: float) -> np.ndarray:
        def ask(labels: list[int | None]) -> np.ndarray:
            times = np.full(len(x), t, np.float32)
            return np.asarray(model.predict(x.astype(np.float32), times, labels, patch=patches[k]).output, np.float64)

        null = ask([None] * len(LABELS))
        return null + guidance * (ask(LABELS) - null)

    return output


def drawn(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """x_T and the noise of every step."""
    rng = np.random.default_rng(seed)
    shape = (len(LABELS), 8, 8, 4)
    return rng.normal(size=shape).astype(np.float32), rng.normal(size=(STEPS, *shape)).astype(np.float32)


def assert_same(ours: np.ndarray, reference: np.ndarray) -> None:
    assert ours.shape == reference.shape
    assert np.abs(ours - reference).max() <= 3e-5 * np.abs(reference).max()


# ---------------------------------------------------------------- Written out, with lists for histories


def dpmpp_2m(model: FlexiDiT, output: Output, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    chain = model.process.chain(STEPS)
    bars = [*chain.alpha_bar[::-1], 1.0]
    lam = [0.5 * np.log(bar / (1 - bar)) if bar < 1 else np.inf for bar in bars]
    seen: list[np.ndarray] = []
    for k in range(STEPS):
        alpha, sigma = np.sqrt(bars[k]), np.sqrt(1 - bars[k])
        seen.append((x - sigma * output(k, x, chain.t[-1 - k])) / alpha)
        h, direction = lam[k + 1] - lam[k], seen[k]
        if 0 < k < STEPS - 1:
            direction = direction + (seen[k] - seen[k - 1]) * h / (lam[k] - lam[k - 1]) / 2
        x = np.sqrt(1 - bars[k + 1]) / sigma * x + np.sqrt(bars[k + 1]) * (1 - np.exp(-h)) * direction
    return x


def sa_solver(model: FlexiDiT, output: Output, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    chain = model.process.chain(STEPS)
    bars, times = [*chain.alpha_bar[::-1], 1.0], chain.t[::-1]
    lam = [0.5 * np.log(bar / (1 - bar)) if bar < 1 else np.inf for bar in bars]
    seen: list[np.ndarray] = []
    path: list[np.ndarray] = []

    def leap(k: int, slope: np.ndarray | float, base: np.ndarray) -> np.ndarray:
        """From path[k] over step k, the data prediction being base + slope (lambda - lambda_k) / h."""
        tau2, h = float(200 <= times[k] <= 800), lam[k + 1] - lam[k]
        g, alpha, sigma = 1 + tau2, np.sqrt(bars[k + 1]), np.sqrt(1 - bars[k + 1])
        mean = np.exp(-tau2 * h) * sigma / np.sqrt(1 - bars[k]) * path[k] + alpha * (1 - np.exp(-g * h)) * base
        return mean + g * alpha * h / 2 * slope + sigma * np.sqrt(1 - np.exp(-2 * tau2 * h)) * z[k]

    for k in range(STEPS - 1):
        seen.append((x - np.sqrt(1 - bars[k]) * output(k, x, times[k])) / np.sqrt(bars[k]))
        if k:  # the corrector knows both ends of the step made
            x = leap(k - 1, seen[k] - seen[k - 1], seen[k - 1])
        path.append(x)
        slope = 0.0
        if 0 < k < STEPS - 2:
            slope = (seen[k] - seen[k - 1]) * (lam[k + 1] - lam[k]) / (lam[k] - lam[k - 1])
        x = leap(k, slope, seen[k])
    return (x - np.sqrt(1 - bars[-2]) * output(STEPS - 1, x, times[-1])) / np.sqrt(bars[-2])


def heun(model: FlexiDiT, output: Output, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    times = [*model.process.chain(STEPS).t[::-1], 0.0]
    for k in range(STEPS):
        step = (times[k + 1] - times[k]) / model.process.steps
        velocity = output(k, x, times[k])
        if k < STEPS - 1:  # both at the patch of step k
            velocity = (velocity + output(k, x + step * velocity, times[k + 1])) / 2
        x = x + step * velocity
    return x


def euler(model: FlexiDiT, output: Output, x: np.ndarray, z: np.ndarray) -> np.ndarray:
    times = [*model.process.chain(STEPS).t[::-1], 0.0]
    for k in range(STEPS):
        x = x + (times[k + 1] - times[k]) / model.process.steps * output(k, x, times[k])
    return x


@pytest.mark.parametrize("guidance", [1.0, 1.5])
@pytest.mark.parametrize("reference", [dpmpp_2m, sa_solver, heun, euler], ids=lambda solver: solver.__name__)
def test_a_chain_that_changes_patch_written_out(
    flex: FlexiDiT, flowing: FlexiDiT, reference: Callable[..., np.ndarray], guidance: float
) -> None:
    model = flowing if reference in (heun, euler) else flex
    x, z = drawn()
    words = {"solver": reference.__name__, "guidance": guidance, "noise": x, "step_noise": z}
    ours = sample(model, schedule=SWITCH, **words)
    assert_same(ours, reference(model, outputs(model, guidance), x.astype(np.float64), z))
    assert np.abs(ours - sample(model, **words)).max() > 1e-2 * np.abs(ours).max()  # the weak steps do show


def test_noise_is_drawn_for_the_steps_that_use_it(flex: FlexiDiT) -> None:
    x, z = drawn()
    words = {"solver": "sa_solver", "noise": x}
    used = (flex.process.timesteps(STEPS)[::-1] >= 200) & (flex.process.timesteps(STEPS)[::-1] <= 800)
    for k in range(STEPS):
        other = z.copy()
        other[k] += 1
        same = np.array_equal(sample(flex, step_noise=other, **words), sample(flex, step_noise=z, **words))
        assert same != used[k]
    assert not np.array_equal(sample(flex, seed=0, **words), sample(flex, seed=1, **words))
    np.testing.assert_array_equal(
        sample(flex, solver="dpmpp_2m", noise=x), sample(flex, solver="dpmpp_2m", noise=x, seed=1)
    )


# ---------------------------------------------------------------- Programs and costs


def test_flow_solvers_share_their_programs(flowing: FlexiDiT) -> None:
    sample(flowing, schedule=SWITCH, guidance=1.5, solver="euler")
    programs = compiled_programs()
    for steps, budget, guidance in ((3, 0.9, 1.5), (11, 0.6, 3.0)):
        for solver in ("heun", "euler"):
            sample(flowing, steps=steps, budget=budget, guidance=guidance, solver=solver)
    assert compiled_programs() == programs


def test_flops_count_every_evaluation(flowing: FlexiDiT) -> None:
    one = flowing.flops(steps=1, solver="euler", guidance=1).total
    weak = flowing.flops(steps=1, schedule="4:1", solver="euler", guidance=1).total
    assert flowing.flops(steps=6, solver="euler", guidance=1)[:2] == (pytest.approx(6 * one), 1.0)
    assert flowing.flops(steps=6, solver="heun", guidance=1)[:2] == (pytest.approx(11 * one), 1.0)
    switched = flowing.flops(steps=6, schedule=SWITCH, solver="heun", guidance=1)
    assert switched.total == pytest.approx(6 * weak + 5 * one)
    assert switched.relative == pytest.approx(switched.total / (11 * one))
    guided = flowing.flops(steps=6, schedule=SWITCH, guide="4:5,2:1", solver="heun", guidance=2)
    assert guided.total == pytest.approx(6 * weak + 5 * one + 10 * weak + one)


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_a_budget_counts_every_evaluation(flowing: FlexiDiT, steps: int) -> None:
    """The fewest weak steps that keep to the budget."""
    least = flowing.flops(steps=1, schedule="4:1", solver="heun", guidance=1).relative
    for budget in np.linspace(least, 1, 23):
        words = {"steps": steps, "solver": "heun", "guidance": 1.0}
        schedule = flowing.plan(budget=budget, **words).schedule
        weak_steps = sum(count for patch, count in schedule if patch == P4)
        assert flowing.flops(budget=budget, **words).relative <= budget + 1e-9
        if weak_steps:
            stronger = f"4:{weak_steps - 1},2:{steps - weak_steps + 1}"
            assert flowing.flops(schedule=stronger, **words).relative > budget


def test_refused_before_anything_runs(flowing: FlexiDiT, flex: FlexiDiT) -> None:
    for model, solver in ((flowing, "ddpm"), (flex, "heun")):
        for call in (sample, lambda model, solver: model.flops(steps=6, solver=solver)):
            with pytest.raises(UserError, match=f"^solver '{solver}' does not suit the "):
                call(model, solver=solver)
