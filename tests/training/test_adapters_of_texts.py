"""A PixArt gets a weak mode as an adapter: which leaves move, that they learn, and that nothing else changes."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.common.trees import flatten, merge
from flexidit_jax.common.types import Params, Patch
from flexidit_jax.diffusion.process import read_by
from flexidit_jax.models.conditioning.condition import Condition
from flexidit_jax.models.flexify import at
from flexidit_jax.training.losses.distillation import Loss
from flexidit_jax.training.optimizer import AdamW, Ema
from flexidit_jax.training.stages import Stage
from flexidit_jax.training.state import TrainState, first_state
from flexidit_jax.training.step import make_step
from flexidit_jax.training.updates import Updates

P2, P4 = (1, 2, 2), (1, 4, 4)
STAGE = Stage((P2, P4), 12, learning_rate=4e-3, adapters=4, loss=Loss(), probabilities=(0.0, 1.0))
#: all that a mode has of its own: embed, de-embed, its embedding, norms, and LoRA on self-attention and MLP
OWN = {
    *("embed/kernel", "embed/bias", "deembed/kernel", "deembed/bias", "patch_embedding", "final/norm/gain"),
    *("final/norm/shift", "blocks/norm1/gain", "blocks/norm1/shift", "blocks/norm2/gain", "blocks/norm2/shift"),
    *(
        f"blocks/{layer}/lora_{ab}"
        for layer in ("attention/qkv", "attention/proj", "mlp/fc1", "mlp/fc2")
        for ab in "ab"
    ),
}


def batch(flex: fd.FlexiDiT, shape: tuple[int, ...], count: int = 6) -> tuple[np.ndarray, Condition]:
    rng = np.random.default_rng(len(shape) + shape[1])
    texts = [rng.normal(size=(3 + i, 32)).astype(np.float32) for i in range(count)]
    x0 = rng.normal(size=(count, *shape)).astype(np.float32)
    return x0, flex.model.conditioner.parse([None, *texts[1:]])  # one without a text


@pytest.fixture(scope="module")
def trained(texts: fd.FlexiDiT) -> tuple[Params, TrainState]:
    """What a stage begins with, and its state after 12 steps on two sizes of pictures in turn."""
    optimizer = AdamW(weight_decay=1e-2, clip=1.0).build(STAGE.rate())
    state = first_state(at(texts.params, P2), STAGE, optimizer)
    begun = jax.device_get(merge(state.frozen, state.params))
    step = make_step(texts.model, texts.process, STAGE.loss, optimizer, Ema(0.9, True), seed=0)
    for number in range(STAGE.steps):
        shape = (1, 16, 16, 4) if number % 2 else (1, 8, 24, 4)
        counts = Updates(*[np.int32(number)] * 3)
        state, metrics = step(state, *batch(texts, shape), number, P4, counts)
        assert np.isfinite(metrics["loss"]) and metrics["grad_norm"] > 0
    return begun, state


def test_every_leaf_that_moves_is_the_new_modes_own(trained: tuple[Params, TrainState]) -> None:
    begun, state = trained
    before, after = flatten(begun), flatten(jax.device_get(merge(state.frozen, state.params)))
    moved = {path for path, leaf in after.items() if not np.array_equal(leaf, before[path])}
    assert moved == {f"modes/1x4x4/{path}" for path in OWN}
    still = {path.split("/")[-3] for path in set(before) - moved if "cross_attention" in path}
    assert still == {"cross_attention"}  # which is there, and does not move


@pytest.mark.parametrize("shape", [(1, 16, 16, 4), (1, 8, 24, 4)])
def test_the_distance_to_the_powerful_mode_falls(
    texts: fd.FlexiDiT, trained: tuple[Params, TrainState], shape: tuple[int, ...]
) -> None:
    """On a fixed batch, at given times over all of the way to noise, with no guidance in either."""
    begun, state = trained
    x0, cond = batch(texts, shape)
    t = np.array([30, 200, 400, 600, 800, 990], np.int32)
    noise = np.random.default_rng(9).normal(size=x0.shape).astype(np.float32)
    model = texts.model.sized(shape)

    def gap(params: Params) -> float:
        def network(patch: Patch):
            own = at(params, patch)
            return lambda x, t, cond: read_by(texts.process, model.at(patch).apply({"params": own}, x, t, cond))

        values, terms = STAGE.loss(texts.process, network(P4), network(P2), x0, cond, t, noise)
        np.testing.assert_allclose(values, terms["gap"] + terms["variance_gap"], rtol=1e-5)
        return float(values.mean())

    assert gap(merge(state.frozen, state.params)) < 0.8 * gap(begun)


def test_the_pre_trained_mode_stays_to_the_bit(texts: fd.FlexiDiT, trained: tuple[Params, TrainState]) -> None:
    begun, state = trained
    ours, theirs = (flatten(at(tree, P2)) for tree in (merge(state.frozen, state.ema), begun))
    for path, leaf in theirs.items():
        np.testing.assert_array_equal(ours[path], leaf, err_msg=path)
