"""A step in parts is the step: the same records, draws and gradients, in less memory. Remat and bfloat16 beside it."""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from flexidit_jax.common.trees import map_named
from flexidit_jax.common.types import Array
from flexidit_jax.diffusion import flow, gaussian
from flexidit_jax.models.build import build_dit, init
from flexidit_jax.models.conditioning.condition import shapes
from flexidit_jax.training.accumulate import micro_batches, quartiles
from flexidit_jax.training.losses import diffusion, distillation
from flexidit_jax.training.losses import flow as velocity
from flexidit_jax.training.optimizer import Ema
from flexidit_jax.training.stages import Stage
from flexidit_jax.training.state import TrainState, first_state
from flexidit_jax.training.step import Metrics, make_step
from flexidit_jax.training.updates import Updates

P2, P4 = (1, 2, 2), (1, 4, 4)
FIRST = Updates(*[np.int32(0)] * 3)
LATENT, BATCH = (1, 8, 8, 2), 12
X0 = np.random.default_rng(1).normal(size=(BATCH, *LATENT)).astype(np.float32)
COND = {"label": np.arange(BATCH) % 10, "null": np.zeros(BATCH, bool)}
KINDS = {
    "diffusion": (diffusion.Loss(), gaussian.Process(), None),
    "flow": (velocity.Loss("logit_normal"), flow.Process(shift=2.0), None),
    "distillation": (distillation.Loss(), gaussian.Process(), 2),
}


@cache
def stepped(kind: str, accumulate: int, **model_words: Any) -> tuple[TrainState, TrainState, Metrics]:
    """The state before and after one step of plain gradient descent, and its metrics."""
    loss, process, adapters = KINDS[kind]
    words = {"width": 16, "depth": 2, "num_heads": 2, "learn_variance": process.learns_variance, **model_words}
    model = build_dit(LATENT, {"name": "classes", "classes": 10}, **words)
    optimizer = optax.sgd(1.0)
    stage = Stage((P2, P4), 5, adapters=adapters)
    state = jax.jit(lambda: first_state(init(model, jax.random.key(0)), stage, optimizer))()
    rng = np.random.default_rng(0)
    shaken = jax.tree.map(
        lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), (state.params, state.frozen)
    )
    state = state.replace(params=shaken[0], frozen=shaken[1])
    step = make_step(model, process, loss, optimizer, Ema(0.5), 0, accumulate=accumulate)
    return state, *step(jax.tree.map(jnp.copy, state), X0, COND, 3, P4, FIRST)


def assert_same_update(before: TrainState, ours: TrainState, theirs: TrainState, tolerance: float) -> None:
    """The parameters moved alike, within `tolerance` of the largest move of their leaf."""

    def compare(path: str, start: Array, a: Array, b: Array) -> None:
        scale = float(jnp.abs(b - start).max())
        np.testing.assert_allclose(a - start, b - start, rtol=0, atol=tolerance * scale + 1e-7, err_msg=path)

    map_named(compare, before.params, ours.params, theirs.params)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_change_nothing(kind: str) -> None:
    before, whole, metrics = stepped(kind, 1)
    _, after, again = stepped(kind, 3)
    assert_same_update(before, after, whole, 1e-5)
    assert again.keys() == metrics.keys()
    for name in metrics:
        np.testing.assert_allclose(again[name], metrics[name], rtol=1e-5, err_msg=name)
    assert float(metrics["quartile_counts"].sum()) == BATCH
    assert float(metrics["quartile_sums"].sum()) == pytest.approx(BATCH * float(metrics["loss"]), rel=1e-5)


def test_every_record_is_in_one_part() -> None:
    parts = micro_batches({"x": np.arange(24).reshape(12, 2), "label": np.arange(12)}, 3)
    assert parts["x"].shape == (3, 4, 2)
    np.testing.assert_array_equal(parts["label"], [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]])
    np.testing.assert_array_equal(parts["x"][..., 0], 2 * parts["label"])


def test_memory_falls_with_the_parts() -> None:
    model = build_dit((1, 16, 16, 4), {"name": "classes", "classes": 10}, width=32, depth=2, num_heads=2)
    optimizer = optax.adamw(1e-3)
    state = jax.eval_shape(lambda: first_state(init(model, jax.random.key(0)), Stage((P2, P4), 5), optimizer))
    x, cond = jax.ShapeDtypeStruct((64, 1, 16, 16, 4), jnp.float32), shapes(model.conditioner, 64)

    def temporaries(accumulate: int) -> int:
        step = make_step(model, gaussian.Process(), diffusion.Loss(), optimizer, Ema(), 0, accumulate=accumulate)
        return step.lower(state, x, cond, 0, P2, FIRST).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(8) < 0.3 * temporaries(1)


# ---------------------------------------------------------------- Quarters of the time axis


def test_quartiles() -> None:
    rng = np.random.default_rng(0)
    values, share = rng.uniform(size=(3, 5)), rng.uniform(size=(3, 5))
    share[0] = [0.0, 0.25, 0.5, 0.75, 1.0]
    found = quartiles(jnp.asarray(values), jnp.asarray(share))
    for i, (low, high) in enumerate(((0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.1))):
        inside = (low <= share) & (share < high)
        assert found["quartile_counts"][i] == inside.sum()
        assert found["quartile_sums"][i] == pytest.approx(values[inside].sum(), rel=1e-6)


@pytest.mark.parametrize("kind", ["diffusion", "flow"])
def test_a_step_sorts_records_by_their_own_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, process, _ = KINDS[kind]

    def by_time(self: Any, process: Any, predict: Any, teacher: Any, x0: Array, *rest: Array) -> Any:
        cond, t, _ = rest
        return 0 * predict(x0, t, cond)[0].mean((1, 2, 3, 4)) + t, {}

    monkeypatch.setattr(type(loss), "__call__", by_time)
    _, _, metrics = stepped.__wrapped__(kind, 2)
    key = jax.random.split(jax.random.fold_in(jax.random.key(0), 3))[1]
    t = np.asarray(loss.draw(process, key, X0.shape)[0])
    for i in range(4):
        inside = t[(t >= 250 * i) & (t < 250 * (i + 1))]
        assert metrics["quartile_counts"][i] == len(inside)
        assert metrics["quartile_sums"][i] == pytest.approx(inside.sum(), rel=1e-6)


# ---------------------------------------------------------------- Remat and precision


def test_remat_changes_no_gradient() -> None:
    before, kept, _ = stepped("diffusion", 3)
    for remat in ("dots", "full"):
        assert_same_update(before, stepped("diffusion", 3, remat=remat)[1], kept, 1e-6)


def test_bfloat16_multiplies_and_float32_keeps() -> None:
    before, reference, metrics = stepped("diffusion", 3)
    _, after, rounded = stepped("diffusion", 3, dtype="bfloat16", remat="dots")
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((after.params, after.ema)))
    assert float(rounded["loss"]) == pytest.approx(float(metrics["loss"]), rel=2e-2)
    assert float(rounded["loss"]) != float(metrics["loss"])
    assert_same_update(before, after, reference, 0.15)
