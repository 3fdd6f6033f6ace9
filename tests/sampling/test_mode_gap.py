"""The gap per step: what it compares, on what, and what it does to a sample."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.common.types import Array, Patch, Prediction
from flexidit_jax.diffusion import flow, gaussian, sit
from flexidit_jax.diffusion.solvers import make_table
from flexidit_jax.diffusion.steps import Carry, Steps, advance
from flexidit_jax.models.conditioning.condition import Condition, take
from flexidit_jax.sampling.mode_gap import errors, mean_gaps, measure
from flexidit_jax.sampling.search import best_schedules

P2, P4, P8 = (1, 2, 2), (1, 4, 4), (1, 8, 8)
LABELS = [0, 1, 2, 3]
COND = {"label": np.arange(4), "null": np.zeros(4, bool)}
X0 = np.random.default_rng(0).normal(size=(4, 1, 2, 2, 2)).astype(np.float32)


def offset(x: Array, t: Array, cond: Condition, patch: Patch) -> Prediction:
    """Mode p is off by p, by 10 p without a condition and by 3 p with label 7."""
    size = patch[1] * (10 if cond["null"][0] else 3 if cond["label"][0] == 7 else 1)
    return Prediction(jnp.full(x.shape, float(size)), None)


def test_the_gap_is_the_mean_squared_difference_to_the_powerful_mode() -> None:
    table = make_table("ddpm", gaussian.Process(), 3)
    batches = [(X0, COND), (X0[:2], take(COND, [0, 1]))]
    found = measure(offset, (P2, P4, P8), gaussian.Process(), table, batches, [1.0] * 3)
    np.testing.assert_allclose(found, [[0] * 3, [4] * 3, [36] * 3])


def test_guided_gaps_where_a_step_is_guided_and_on_the_guided_channels() -> None:
    """At scale s an output is p (10 + s (1 - 10)), and so 1 - p (s = 1.5: -3.5 p)."""
    table = make_table("ddpm", gaussian.Process(), 3)
    batches = [(X0, COND)]
    found = measure(offset, (P2, P4), gaussian.Process(), table, batches, [1.0, 1.5, 2.0])
    np.testing.assert_allclose(found[1], [4, (2 * 3.5) ** 2, (2 * 8) ** 2])
    first_only = measure(offset, (P2, P4), gaussian.Process(), table, batches, [1.0, 1.5, 2.0], channels=1)
    np.testing.assert_allclose(first_only[1], [4, (49 + 4) / 2, (256 + 4) / 2])
    away = {"label": np.array([7]), "null": np.zeros(1, bool)}  # p (3 + s (1 - 3))
    found = measure(offset, (P2, P4), gaussian.Process(), table, batches, [1.0, 1.5, 2.0], negative=away)
    np.testing.assert_allclose(found[1], [4, 0, 4])


@pytest.mark.parametrize(
    ("process", "solver"),
    [(gaussian.Process(), "ddpm"), (flow.Process(shift=2.0), "heun"), (sit.Process(shift=2.0), "heun")],
    ids=["ddpm", "heun", "sit"],
)
def test_every_row_sees_data_noised_to_its_own_time(process: Any, solver: str) -> None:
    table = make_table(solver, process, 4)
    seen: dict[Patch, list[tuple[np.ndarray, float]]] = {P2: [], P4: []}

    def look(x: Array, t: Array, cond: Condition, patch: Patch) -> Prediction:
        seen[patch].append((np.asarray(x), float(t[0])))
        return Prediction(x, None)

    still = np.zeros((500, 1, 2, 2, 2), np.float32) + 3
    measure(look, (P2, P4), process, table, [(still, COND)], [1.0] * 4)
    assert [t for _, t in seen[P2]] == pytest.approx(table.t)
    for row, ((x, _), (same, _)) in enumerate(zip(seen[P2], seen[P4], strict=True)):
        np.testing.assert_array_equal(x, same)
        t = np.full(1, table.t[row])
        signal = float(process.add_noise(np.ones((1, 1)), np.zeros((1, 1)), t)[0, 0])
        sigma = float(process.add_noise(np.zeros((1, 1)), np.ones((1, 1)), t)[0, 0])
        assert x.mean() == pytest.approx(3 * signal, abs=5 * sigma / np.sqrt(x.size) + 1e-6)
        assert x.std() == pytest.approx(sigma, rel=0.06, abs=1e-6)
    first, second = (x.ravel() for x, _ in seen[P2][:2])
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.15  # noise of its own


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpmpp_2m", "sa_solver", "euler", "heun"])
def test_an_error_is_what_a_gap_does_to_the_sample(solver: str) -> None:
    process = flow.Process() if solver in ("euler", "heun") else gaussian.Process()
    table = make_table(solver, process, 6)
    rng = np.random.default_rng(0)
    carry = Carry(*(jnp.asarray(rng.normal(size=(1, 8)), jnp.float32) for _ in Carry._fields))
    output, off = (jnp.asarray(rng.normal(size=(1, 8)), jnp.float32) for _ in range(2))
    moved = []
    for number in zip(*table, strict=True):
        row = Steps(*number)
        ours, theirs = (advance(row, carry, Prediction(out, None), 0.0).x for out in (output, output + off))
        moved.append(float(jnp.mean(jnp.square(ours - theirs))))
    gap = np.full((1, len(table.t)), float(jnp.mean(jnp.square(off))))
    wanted = np.bincount(table.step.astype(int), moved)
    np.testing.assert_allclose(errors(gap, table)[0], wanted, rtol=2e-3, atol=1e-9)
    np.testing.assert_allclose(mean_gaps(gap, table), gap[:, :6])


def test_three_modes_of_a_real_model(dit: fd.FlexiDiT) -> None:
    """Measured, searched, and sampled by the schedule found."""
    flex = dit.flexify((2, 4, 8))
    table = make_table("ddim", flex.process, 4)
    x0 = np.random.default_rng(0).normal(size=(4, 1, 8, 8, 4)).astype(np.float32)
    batches = [(x0, COND)]
    gap = measure(flex.predict, flex.patches, flex.process, table, batches, [1.0] * 4)
    assert gap.shape == (3, 4) and not gap[0].any() and (gap[1:] > 0).all()
    again = measure(flex.predict, flex.patches, flex.process, table, batches, [1.0] * 4)
    np.testing.assert_array_equal(gap, again)
    wanted = flex.predict(x0, np.full(4, 999), LABELS, 8).output  # another noise, but a gap of the same size
    assert 0 < gap[2, 0] < 100 * float(jnp.mean(jnp.square(wanted)))
    costs = [flex.flops(4, f"{patch}:4", guidance=1.0).total for patch in (2, 4, 8)]
    ramp = np.array([[0.0], [1.0], [3.0]]) * np.array([1, 5, 40, 300])
    budget = (costs[2] + costs[1] + 2 * costs[0]) / (4 * costs[0])
    (found,) = best_schedules(flex.patches, ramp, costs, [1] * 4, [budget], 3)
    assert found.schedule == ((P8, 1), (P4, 1), (P2, 2))
    words = ",".join(f"{patch[1]}:{count}" for patch, count in found.schedule)
    assert flex.flops(4, words, guidance=1.0).relative == pytest.approx(found.share)
    assert flex.sample(LABELS, 4, schedule=words, guidance=1.0, decode=False, progress=False).shape == (4, 8, 8, 4)
