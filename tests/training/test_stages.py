"""Stages: which mode a step trains, how fast, and what crosses from one stage into the next."""

from __future__ import annotations

import jax
import numpy as np
import optax
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.trees import flatten, merge
from flexidit_jax.common.types import Params
from flexidit_jax.models.build import build_dit, init
from flexidit_jax.models.flexify import at, flexify
from flexidit_jax.training.losses.diffusion import Loss as Diffusion
from flexidit_jax.training.losses.distillation import Loss as Distillation
from flexidit_jax.training.optimizer import AdamW, Ema
from flexidit_jax.training.stages import Stage, build_stages
from flexidit_jax.training.state import first_state, next_stage

P2, P4, P8 = (1, 2, 2), (1, 4, 4), (1, 8, 8)
BOTH = {"patches": (2, 4), "steps": 10}


# ---------------------------------------------------------------- Modes


def test_a_mode_is_a_function_of_seed_and_step() -> None:
    stage = Stage((P2, P4, P8), 300)
    drawn = [stage.mode(0, step) for step in range(300)]
    assert drawn == [stage.mode(0, step) for step in range(300)]
    assert [stage.mode(0, step) for step in reversed(range(300))] == drawn[::-1]  # no hidden state
    assert drawn != [stage.mode(1, step) for step in range(300)]
    assert Stage((P2, P4, P8), 7, learning_rate=3.0).mode(0, 5) == drawn[5]


def test_modes_are_uniform_by_default_and_weighted_on_request() -> None:
    def shares(probabilities: tuple[float, ...] | None) -> np.ndarray:
        stage = Stage((P2, P4, P8), 3000, probabilities=probabilities)
        drawn = [stage.mode(0, step) for step in range(3000)]
        return np.array([drawn.count(patch) for patch in stage.patches]) / 3000

    np.testing.assert_allclose(shares(None), 1 / 3, atol=0.03)
    np.testing.assert_allclose(shares((0.7, 0.2, 0.1)), (0.7, 0.2, 0.1), atol=0.03)
    np.testing.assert_array_equal(shares((0.0, 1.0, 0.0)), (0, 1, 0))


# ---------------------------------------------------------------- Learning rate


def test_warm_up_then_cosine() -> None:
    rate = Stage((P2,), 100, learning_rate=2e-3, warmup=10, final_rate=0.02).rate()
    assert float(rate(0)) == 0
    assert float(rate(5)) == pytest.approx(1e-3)
    assert float(rate(10)) == pytest.approx(2e-3)
    assert float(rate(55)) == pytest.approx(2e-3 * (0.02 + 0.98 / 2))
    assert float(rate(100)) == pytest.approx(4e-5)


def test_without_warm_up_and_decay_the_rate_is_constant() -> None:
    rate = Stage((P2,), 100, learning_rate=1e-4).rate()
    np.testing.assert_allclose([float(rate(step)) for step in (0, 1, 50, 99, 100)], 1e-4, rtol=1e-6)


# ---------------------------------------------------------------- From a config


def built(sections: list[dict]) -> list[Stage]:
    return build_stages(sections, base=P2, loss={"name": "diffusion"})


def test_build_stages() -> None:
    first, second = built([{"patches": (2,), "steps": 5}, {**BOTH, "patches": ("1x4x4", 2), "warmup": 3}])
    assert first == Stage((P2,), 5, loss=Diffusion())
    assert second == Stage((P2, P4), 10, warmup=3, loss=Diffusion())


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"patches": (2, 4)}, r"^config key 'train\.stages\[0\]\.steps' is missing$"),
        ({**BOTH, "step": 3}, r"^unknown config key 'train\.stages\[0\]\.step'; did you mean 'steps'\?$"),
        ({**BOTH, "steps": 0}, r"steps must be positive, got 0$"),
        ({**BOTH, "steps": -5}, r"steps must be positive, got -5$"),
        ({**BOTH, "learning_rate": 0.0}, r"learning_rate must be positive, got 0\.0$"),
        ({**BOTH, "patches": ()}, r"patches is empty"),
        ({**BOTH, "patches": ("2x",)}, r"^patch '2x' is not "),
        ({**BOTH, "warmup": 10}, r"warmup must lie in 0\.\.steps-1=9, got 10$"),
        ({**BOTH, "warmup": -1}, r"warmup must lie in 0\.\.steps-1=9, got -1$"),
        ({**BOTH, "probabilities": (0.5, 0.4)}, r"must be 2 numbers that add up to 1, got \(0\.5, 0\.4\)$"),
        ({**BOTH, "probabilities": (1.0,)}, r"must be 2 numbers that add up to 1"),
        ({**BOTH, "probabilities": (1.5, -0.5)}, r"must be 2 numbers that add up to 1"),
    ],
)
def test_refusals(section: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        built([section])


def test_adapters_train_the_new_modes_only() -> None:
    (stage,) = built([{**BOTH, "patches": (2, 4, 8), "adapters": 4, "loss": {"name": "distillation"}}])
    assert (stage.adapters, stage.loss) == (4, Distillation())
    assert stage.probabilities == (0.0, 0.5, 0.5)
    for words, message in (
        ({"patches": (2,)}, r"has the pre-trained one only$"),
        ({"adapters": 0}, r"adapters must be positive, got 0$"),
        ({"probabilities": (0.5, 0.5)}, r"trains the pre-trained mode, which adapters leave frozen$"),
        ({"loss": {"name": "distilation"}}, r"no 'distilation' in losses/; did you mean 'distillation'\?$"),
    ):
        with pytest.raises(UserError, match=message):
            built([{**BOTH, "adapters": 4, **words}])


def test_no_stage_is_refused() -> None:
    with pytest.raises(UserError, match=r"^train\.stages is empty"):
        built([])


def test_optimizer_and_ema_refusals() -> None:
    for words, named in (({"b1": 1.0}, "b1"), ({"b2": -0.1}, "b2"), ({"weight_decay": -1.0}, "weight_decay")):
        with pytest.raises(UserError, match=named):
            AdamW(**words)
    with pytest.raises(UserError, match=r"clip must be positive, got 0\.0$"):
        AdamW(clip=0.0)
    for decay in (1.0, -0.5):
        with pytest.raises(UserError, match=r"^train\.ema\.decay must lie in \[0, 1\)"):
            Ema(decay=decay)


def test_clipping_bounds_the_global_norm() -> None:
    clipped, free = AdamW(clip=0.5), AdamW()
    tree = {"a": np.full(4, 3.0, np.float32), "b": np.full(5, 4.0, np.float32)}

    def moment(optimizer: AdamW) -> float:
        built = optimizer.build(optax.constant_schedule(1e-3))
        _, state = built.update(tree, built.init(tree), tree)
        return float(optax.global_norm(optax.tree_utils.tree_get(state, "mu"))) / 0.1

    assert moment(clipped) == pytest.approx(0.5, rel=1e-5)
    assert moment(free) == pytest.approx(float(optax.global_norm(tree)), rel=1e-5)


def test_weight_decay_shrinks_what_gets_no_gradient_by_the_rate() -> None:
    weights = {"a": np.linspace(-2, 2, 5, dtype=np.float32)}
    for decay in (0.1, 0.0):
        optimizer = AdamW(weight_decay=decay).build(optax.constant_schedule(1e-2))
        updates, _ = optimizer.update(jax.tree.map(np.zeros_like, weights), optimizer.init(weights), weights)
        np.testing.assert_allclose(updates["a"], -1e-2 * decay * weights["a"], rtol=1e-6)


# ---------------------------------------------------------------- Across a boundary


@pytest.fixture(scope="module")
def plain(dit) -> Params:
    return at(dit.params, P2)


def test_a_stage_boundary_keeps_the_function_and_renews_the_optimizer(plain: Params) -> None:
    adam = AdamW().build(optax.constant_schedule(1e-3))
    first = first_state(plain, Stage((P2,), 10), adam)
    assert int(first.step) == 0
    ones = jax.tree.map(lambda leaf: leaf + 1, first.optimizer)
    ema = jax.tree.map(lambda leaf: 0.5 * leaf, first.params)
    first = first.replace(step=np.int32(9), ema=ema, optimizer=ones)

    second = next_stage(first, Stage((P2, P4), 10), adam)
    assert int(second.step) == 0
    assert not second.frozen
    assert set(second.params["modes"]) == set(second.ema["modes"]) == {"1x2x2", "1x4x4"}
    kept = flatten(at(second.params, P2))
    average = flatten(at(second.ema, P2))
    for path, leaf in flatten(plain).items():
        np.testing.assert_allclose(kept[path], leaf, atol=1e-6, err_msg=path)
        np.testing.assert_allclose(average[path], 0.5 * np.asarray(leaf), atol=1e-6, err_msg=path)
    assert jax.tree.structure(second.optimizer[0].mu) == jax.tree.structure(second.params)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(second.optimizer))

    third = next_stage(second, Stage((P2, P4), 10), adam)  # the same modes again: nothing to convert
    for ours, theirs in zip(jax.tree.leaves(third.params), jax.tree.leaves(second.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_adapters_freeze_the_average_of_the_stage_before(plain: Params) -> None:
    adam = AdamW().build(optax.constant_schedule(1e-3))
    first = first_state(plain, Stage((P2,), 10), adam)
    first = first.replace(ema=jax.tree.map(lambda leaf: 0.5 * leaf, first.params))
    second = next_stage(first, Stage((P2, P4), 10, adapters=4), adam)
    assert set(second.frozen) == {"trunk", "tokens"}
    assert set(second.params) == set(second.ema) == {"modes"}
    assert jax.tree.structure(second.optimizer[0].mu) == jax.tree.structure(second.params)
    pre_trained = flatten(at(merge(second.frozen, second.ema), P2))
    for path, leaf in flatten(plain).items():
        np.testing.assert_array_equal(pre_trained[path], 0.5 * np.asarray(leaf), err_msg=path)


def test_new_modes_begin_from_the_average_that_is_frozen(plain: Params) -> None:
    adam = AdamW().build(optax.constant_schedule(1e-3))
    first = first_state(plain, Stage((P2,), 10), adam)
    first = first.replace(ema=jax.tree.map(lambda leaf: 0.5 * leaf, first.params))
    second = next_stage(first, Stage((P2, P4), 10, adapters=4), adam)
    ours, theirs = (flatten(tree["modes"]["1x4x4"]) for tree in (second.params, flexify(plain, (P2, P4), 4)))
    assert ours.keys() == theirs.keys()
    for path, leaf in ours.items():
        share = 0.5 if path.startswith(("embed", "deembed")) else 1.0
        np.testing.assert_allclose(leaf, share * np.asarray(theirs[path]), atol=1e-6, err_msg=path)
    assert min(np.abs(ours[f"{part}/{leaf}"]).max() for part in ("embed", "deembed") for leaf in ("kernel", "bias")) > 0
    jax.tree.map(np.testing.assert_array_equal, second.params, second.ema)


def test_what_stands_for_no_condition_is_frozen_in_every_stage() -> None:
    """And is no sign of a stage before that froze the pre-trained weights."""
    section = {"name": "text", "features": 6, "length": 4, "null_length": 2}
    model = build_dit((1, 8, 8, 4), section, width=12, depth=1, num_heads=2, modulation="single", span=4.0)
    adam = AdamW().build(optax.constant_schedule(1e-3))
    state = first_state(init(model, jax.random.key(0)), Stage((P2,), 10), adam)
    null = state.frozen["trunk"]["conditioner"]["null"]
    state = state.replace(ema=jax.tree.map(lambda leaf: 0.5 * leaf, state.params))
    shared = next_stage(state, Stage((P2, P4), 10), adam)  # trained goes on from what is trained
    trained, average = (flatten(tree["trunk"]["blocks"]) for tree in (shared.params, shared.ema))
    for path, leaf in flatten(state.params["trunk"]["blocks"]).items():
        np.testing.assert_array_equal(trained[path], leaf, err_msg=path)
        np.testing.assert_array_equal(average[path], 0.5 * np.asarray(leaf), err_msg=path)
    adapted = next_stage(state, Stage((P2, P4), 10, adapters=2), adam)  # from the average, which is frozen
    jax.tree.map(np.testing.assert_array_equal, adapted.params, adapted.ema)
    for one in (state, shared, adapted):
        np.testing.assert_array_equal(one.frozen["trunk"]["conditioner"]["null"], null)
        assert "null" not in "/".join(flatten(one.params))


def test_the_first_average_is_a_copy(plain: Params) -> None:
    state = first_state(plain, Stage((P2, P4), 10), AdamW().build(optax.constant_schedule(1e-3)))
    for ours, theirs in zip(jax.tree.leaves(state.params), jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours is not theirs  # both are donated to the step


def test_modes_change_once() -> None:
    built([{"patches": (2,), "steps": 5}, BOTH, BOTH])
    with pytest.raises(UserError, match=r"^train\.stages may change their patches or adapters once"):
        built([BOTH, {**BOTH, "patches": (2, 8)}])


def test_parameters_and_average_are_never_one_array(plain: Params) -> None:
    adam = AdamW().build(optax.constant_schedule(1e-3))
    adapted = Stage((P2, P4), 5, probabilities=(0.0, 1.0), adapters=4)
    state = first_state(plain, Stage((P2,), 5), adam)
    for stage in (adapted, adapted):  # into adapters, and on with them
        state = next_stage(state, stage, adam)
        pairs = zip(jax.tree.leaves(state.params), jax.tree.leaves(state.ema), strict=True)
        assert all(ours is not theirs for ours, theirs in pairs)  # a step gives both away


def test_the_pre_trained_mode_must_be_there_when_it_teaches() -> None:
    with pytest.raises(UserError, match=r"a stage with adapters must hold the pre-trained patch"):
        built([{**BOTH, "patches": (4,), "adapters": 4}])
    with pytest.raises(UserError, match=r"a stage of one mode that others follow must train the pre-trained patch 2"):
        built([{"patches": (4,), "steps": 5}, BOTH])
