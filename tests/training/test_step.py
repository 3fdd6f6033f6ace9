"""One training step: who moves, who does not, and on what its randomness depends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.codecs.latents import stacked
from flexidit_jax.common.config import load_config
from flexidit_jax.common.trees import map_named
from flexidit_jax.common.types import Array, Patch, Prediction, patch_name
from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.experiment.experiment import Experiment, build_experiment
from flexidit_jax.models.build import init
from flexidit_jax.models.conditioning.condition import of_records
from flexidit_jax.training.losses.diffusion import Loss, terms
from flexidit_jax.training.losses.distillation import Loss as Distillation
from flexidit_jax.training.stages import build_stages
from flexidit_jax.training.state import TrainState, first_state
from flexidit_jax.training.step import make_step
from flexidit_jax.training.updates import Updates

P2, P4 = (1, 2, 2), (1, 4, 4)
CONFIG = Path(__file__).parents[2] / "configs" / "digits.py"
FIRST = Updates(*[np.int32(0)] * 3)
Advance = Callable[[TrainState, int, Patch], TrainState]
Leaves = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def smoke() -> Experiment:
    return build_experiment(load_config(f"{CONFIG}:smoke"))


@pytest.fixture(scope="module")
def advance(smoke: Experiment) -> Advance:
    """The step of the second stage of `digits.py:smoke`, on one fixed batch; keeps the state given."""
    optimizer = smoke.train.optimizer.build(smoke.train.stages[1].rate())
    step = make_step(smoke.model, smoke.process, smoke.train.stages[1].loss, optimizer, smoke.train.ema, smoke.seed)
    records = smoke.dataset.source()[: smoke.train.batch]
    x0 = jnp.stack([record["x"] for record in records])
    cond = of_records(smoke.model.conditioner, stacked(records))

    def run(state: TrainState, number: int, patch: Patch) -> TrainState:
        return step(jax.tree.map(jnp.copy, state), x0, cond, number, patch, Updates(*[np.int32(state.step)] * 3))[0]

    return run


@pytest.fixture(scope="module")
def start(smoke: Experiment) -> TrainState:
    """A state of two modes, no leaf of it zero."""
    optimizer = smoke.train.optimizer.build(smoke.train.stages[1].rate())
    state = jax.jit(lambda: first_state(init(smoke.model, jax.random.key(0)), smoke.train.stages[1], optimizer))()
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), state.params)
    return state.replace(params=params, ema=jax.tree.map(lambda leaf: 0.9 * leaf, params))


def leaves(tree: Any) -> Leaves:
    named: Leaves = {}
    map_named(lambda path, leaf: named.update({path: np.asarray(leaf)}), tree)
    return named


def moved(before: Any, after: Any) -> dict[str, bool]:
    """Whether any bit of each leaf changed."""
    ours, theirs = leaves(before), leaves(after)
    assert ours.keys() == theirs.keys()
    return {path: not np.array_equal(ours[path], theirs[path]) for path in ours}


def is_of(path: str, patch: Patch) -> bool:
    return f"modes/{patch_name(patch)}/" in path


@pytest.mark.parametrize(("active", "idle"), [(P2, P4), (P4, P2)], ids=["2 active", "4 active"])
def test_an_idle_mode_is_left_alone(start: TrainState, advance: Advance, active: Patch, idle: Patch) -> None:
    state = start
    for number in range(2):  # gives the mode moments that AdamW would let decay
        state = advance(state, number, idle)
    after = advance(state, 2, active)
    for part in ("params", "ema", "optimizer"):
        changed = moved(getattr(state, part), getattr(after, part))
        assert sum(is_of(path, idle) for path in changed) >= 7 * (2 if part == "optimizer" else 1)
        for path, did in changed.items():
            assert did != is_of(path, idle), (part, path)
    assert int(after.step) == int(state.step) + 1


@pytest.mark.parametrize(("active", "idle"), [(P2, P4), (P4, P2)], ids=["2 active", "4 active"])
def test_every_leaf_of_the_mode_gets_a_gradient(
    start: TrainState, advance: Advance, active: Patch, idle: Patch
) -> None:
    first_moments = leaves(advance(start, 0, active).optimizer[0].mu)  # 0.1 of the gradient
    for path, moment in first_moments.items():
        if is_of(path, idle):
            assert not moment.any(), path
        else:
            assert moment.any(), path


def test_the_average_warms_up(start: TrainState, advance: Advance, smoke: Experiment) -> None:
    assert smoke.train.ema.warmup
    assert smoke.train.ema.decay == 0.998
    for n, decay in ((0, 1 / 10), (1, 2 / 11), (90, 91 / 100), (4480, 4481 / 4490), (4490, 0.998), (10**6, 0.998)):
        state = start.replace(step=jnp.int32(n))
        after = advance(state, 1, P4)
        for path, average in leaves(after.ema).items():
            before = leaves(state.ema)[path]
            expected = before if is_of(path, P2) else decay * before + (1 - decay) * leaves(after.params)[path]
            np.testing.assert_allclose(average, expected, rtol=1e-5, atol=1e-6, err_msg=f"{n} {path}")


def test_the_average_takes_the_parameters_after_the_step(start: TrainState, advance: Advance) -> None:
    state = advance(start, 0, P4)  # the rate warms up from zero: a first step moves nothing
    before, after = leaves(state.ema), advance(state.replace(step=jnp.int32(0)), 1, P4)
    for path, average in leaves(after.ema).items():
        if not is_of(path, P2):
            old, new = leaves(state.params)[path], leaves(after.params)[path]
            np.testing.assert_allclose(average, 0.1 * before[path] + 0.9 * new, atol=1e-6, err_msg=path)
            assert np.abs(new - old).max() > 1e-4, path


def test_randomness_is_of_the_step_number(start: TrainState, advance: Advance) -> None:
    again = moved(advance(start, 3, P2), advance(start, 3, P2))
    assert not any(again.values())
    other = moved(advance(start, 3, P2).optimizer[0].mu, advance(start, 4, P2).optimizer[0].mu)
    assert all(did for path, did in other.items() if not is_of(path, P4))


def test_the_bound_trains_the_variance_only() -> None:
    rng = np.random.default_rng(0)
    x0, noise, error, variance = (jnp.asarray(rng.normal(size=(3, 1, 4, 4, 2)), jnp.float32) for _ in range(4))
    output = noise + 0.1 * error
    t = jnp.array([0, 1, 20])  # the likelihood of the data, and two terms whose range of variances is wide

    def term(name: str, output: Array, variance: Array) -> Array:
        return terms(Process(), lambda *_: Prediction(output, variance), x0, noise, t, None)[name].sum()

    by_output, by_variance = jax.grad(term, argnums=(1, 2))("vlb", output, variance)
    assert not np.asarray(by_output).any()
    assert all(np.abs(row).max() > 1e-5 for row in np.asarray(by_variance))
    by_output, by_variance = jax.grad(term, argnums=(1, 2))("mse", output, variance)
    np.testing.assert_allclose(by_output, 2 * (output - noise) / 32, rtol=1e-5)
    assert not np.asarray(by_variance).any()


def test_the_loss_weighs_the_bound() -> None:
    x0 = jnp.zeros((4, 1, 4, 4, 2))
    t, noise = jnp.arange(4), jnp.ones_like(x0)

    def predict(x: Array, t: Array, cond: Any) -> Prediction:
        return Prediction(0.5 * x, 0.1 * x)

    for weight in (0.0, 1.0, 0.25):
        values, parts = Loss(vlb_weight=weight)(Process(), predict, predict, x0, None, t, noise)
        assert set(parts) == {"mse", "vlb"}
        np.testing.assert_allclose(values, parts["mse"] + weight * parts["vlb"], rtol=1e-6)
    values, parts = Loss()(Process(), lambda x, t, cond: Prediction(0.5 * x, None), predict, x0, None, t, noise)
    assert set(parts) == {"mse"} and values.shape == (4,)
    np.testing.assert_array_equal(values, parts["mse"])


def test_distillation_pulls_the_student_to_a_teacher_without_gradient() -> None:
    x0, key = jnp.zeros((4, 1, 4, 4, 2)), jax.random.key(0)

    def loss(student: float, teacher: float, weight: float = 1.0) -> Array:
        def predict(scale: float) -> Callable[..., Prediction]:
            return lambda x, t, cond: Prediction(scale * x, 2 * scale * x)

        asked = Distillation(weight)
        t, noise = asked.draw(Process(), key, x0.shape)
        values, parts = asked(Process(), predict(student), predict(teacher), x0, None, t, noise)
        assert set(parts) == {"gap", "variance_gap"} and values.shape == (4,)
        return values.mean()

    assert float(loss(0.7, 0.7)) == 0
    assert float(loss(0.5, 0.7, 0.25)) == pytest.approx(float(loss(0.5, 0.7, 0.0)) * 2)  # (2 * gap)^2 / 4 beside gap^2
    by_student, by_teacher = jax.grad(loss, argnums=(0, 1))(0.5, 0.7)
    assert by_student < 0 and by_teacher == 0


def test_a_step_of_adapters_moves_nothing_frozen(smoke: Experiment) -> None:
    words = {"patches": (2, 4), "steps": 5, "learning_rate": 1e-2, "adapters": 2}
    (stage,) = build_stages([words], P2, {"name": "distillation"})
    optimizer = smoke.train.optimizer.build(stage.rate())
    state = jax.jit(lambda: first_state(init(smoke.model, jax.random.key(0)), stage, optimizer))()
    rng = np.random.default_rng(0)
    shaken = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), state)
    state = state.replace(params=shaken.params, frozen=shaken.frozen)
    step = make_step(smoke.model, smoke.process, stage.loss, optimizer, smoke.train.ema, 0)
    x0 = jnp.asarray(rng.normal(size=(16, *smoke.model.latent)), jnp.float32)
    after, metrics = step(jax.tree.map(jnp.copy, state), x0, smoke.model.conditioner.parse([0] * 16), 0, P4, FIRST)
    assert float(metrics["gap"]) > 0
    assert not any(moved(state.frozen, after.frozen).values())
    assert all(moved(state.params, after.params).values())  # every leaf of the adapter learns
    assert len(leaves(after.optimizer[0].mu)) == len(leaves(after.params))
