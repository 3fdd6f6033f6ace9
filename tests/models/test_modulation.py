"""Modulations: both sources written out, a mode's own norms in them, ready ones beside those that blocks make."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Params
from flexidit_jax.models.blocks import Final
from flexidit_jax.models.build import build_dit, describe, init
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flexify import at, flexify
from flexidit_jax.models.fold import folded
from flexidit_jax.models.modulation import SOURCES
from flexidit_jax.sampling.weights import maker

D, DEPTH = 32, 3
P2, P4 = (1, 2, 2), (1, 4, 4)


def model_of(source: str, **words: Any) -> DiT:
    section = {"width": D, "depth": DEPTH, "num_heads": 2, "modulation": source, **words}
    return build_dit((1, 8, 8, 4), {"name": "classes", "classes": 5}, **section)


def stored(model: DiT) -> Params:
    """Two modes, nothing left at zero."""
    rng = np.random.default_rng(0)
    params = flexify(jax.jit(partial(init, model))(jax.random.key(0)), [P2, P4])
    return jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), params)


@pytest.fixture(scope="module", params=SOURCES)
def source(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(source: str) -> DiT:
    return model_of(source)


@pytest.fixture(scope="module")
def params(model: DiT) -> Params:
    return stored(model)


def asked(model: DiT) -> tuple[np.ndarray, np.ndarray, Any]:
    x = np.random.default_rng(1).normal(size=(3, *model.latent)).astype(np.float32)
    return x, np.array([3.0, 900.0, 41.5], np.float32), model.conditioner.parse([0, None, 4])


def run(model: DiT, params: Params, *words: Any, **more: Any) -> Any:
    return jax.jit(partial(model.apply, **more))({"params": params}, *words)


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize("patch", [P2, P4])
def test_ready_modulations_change_nothing(model: DiT, params: Params, patch: tuple[int, int, int]) -> None:
    """Stacked or a subtree a block, from one product or from each block's own: the same prediction."""
    here, plain, (x, t, cond) = model.at(patch), at(params, patch), asked(model)
    reference = run(here, plain, x, t, cond)
    assert np.abs(reference.output).max() > 0.1
    for apart in (False, True):
        weights = maker(model, apart)(plain)
        made = run(here, weights.conditioning, t, cond, method="modulations")
        assert (made.blocks.shape, made.last.shape) == ((DEPTH, 3, 6, D), (3, 2, D))
        for ours, theirs in zip(run(here, weights.network, x, t, cond, made), reference, strict=True):
            assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max(), apart


def test_written_out(source: str, model: DiT, params: Params) -> None:
    plain, (_, t, cond) = at(params, P4), asked(model)
    made = run(model, plain, t, cond, method="modulations")
    time = run(model, plain, t, method=lambda dit, t: dit.timestep(t))
    vector = plain["conditioner"]["table"][np.where(cond["null"], 5, cond["label"])]
    e = np.asarray(time + vector, np.float64)
    blocks, last = plain["blocks"], plain["final"]
    if source == "block":
        want = np.stack(
            [silu(e) @ w + b for w, b in zip(*map(blocks["modulation"].get, ("kernel", "bias")), strict=True)]
        )
        end = silu(e) @ last["modulation"]["kernel"] + last["modulation"]["bias"]
    else:
        shared = silu(e) @ plain["projection"]["blocks"]["kernel"] + plain["projection"]["blocks"]["bias"]
        want = blocks["modulation"]["table"][:, None] + shared.reshape(3, 6, D)
        end = last["modulation"]["table"] + e[:, None]
    want, end = want.reshape(DEPTH, 3, 6, D), end.reshape(3, 2, D)

    def own(m: np.ndarray, first: int, norm: Params) -> None:
        grown = 1 + m[..., first + 1, :] if source == "block" else 1
        gain, shift = (norm[key].reshape(-1, *[1] * (m.ndim - 3), D) for key in ("gain", "shift"))
        m[..., first, :], m[..., first + 1, :] = m[..., first, :] + shift * grown, m[..., first + 1, :] + gain * grown

    own(want, 0, blocks["norm1"])
    own(want, 3, blocks["norm2"])
    own(end[None], 0, last["norm"])
    np.testing.assert_allclose(made.blocks, want, atol=2e-5)
    np.testing.assert_allclose(made.last, end, atol=2e-5)


def test_a_modes_own_norm_is_an_affine_of_the_norm_or_a_delta_of_the_table(source: str) -> None:
    """Of "block": (norm(x) (1 + g) + b) (1 + scale) + shift; of "single": norm(x) (1 + scale + g) + shift + b."""
    rng = np.random.default_rng(0)
    x, (gain, bias) = rng.normal(size=(2, 3, 8)), rng.normal(size=(2, 8))
    shared = rng.normal(size=(2, 8))
    final, end = Final(8, jnp.dtype("float32"), source), jax.default_matmul_precision("highest")
    with end:
        tree = final.init(jax.random.key(0), shared, method="modulated")["params"]
        tree = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), tree)
        m = np.asarray(final.apply({"params": tree}, shared, method="modulated"))
        shift, scale = m[:, :1], m[:, 1:]
        mine = {"params": {**tree, "norm": {"gain": gain, "shift": bias}}}
        out = final.apply(mine, x, final.apply(mine, shared, method="modulated"))
        plain = final.apply({"params": tree}, x, m)
        none = {"params": {**tree, "norm": {"gain": 0 * gain, "shift": 0 * bias}}}
        np.testing.assert_array_equal(final.apply(none, shared, method="modulated"), m)
    norm = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(plain, norm * (1 + scale) + shift, atol=2e-5)
    if source == "block":
        expected = (norm * (1 + gain) + bias) * (1 + scale) + shift
    else:
        expected = norm * (1 + scale + gain) + shift + bias
    np.testing.assert_allclose(out, expected, atol=2e-5)


def test_own_norms_fold_exactly(model: DiT, params: Params) -> None:
    here, plain, words = model.at(P4), at(params, P4), asked(model)
    alone = folded(plain)
    assert "norm1" not in alone["blocks"] and "patch_embedding" not in alone
    for ours, theirs in zip(run(here, alone, *words), run(here, plain, *words), strict=True):
        assert np.abs(ours - theirs).max() <= 2e-6 * np.abs(theirs).max()


def test_every_leaf_receives_a_gradient(model: DiT, params: Params) -> None:
    words = asked(model)
    loss = jax.jit(jax.grad(lambda tree: sum((part**2).sum() for part in model.apply({"params": tree}, *words))))
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(loss(at(params, P2))))


def test_of_a_bfloat16_model_they_are_bfloat16() -> None:
    model = model_of("block", dtype="bfloat16")
    _, t, cond = asked(model)
    made = jax.eval_shape(partial(model.apply, method="modulations"), {"params": at(stored(model), P2)}, t, cond)
    assert {part.dtype for part in made} == {jnp.dtype("bfloat16")}


def test_config_words() -> None:
    assert describe(model_of("single"))["modulation"] == "single"
    assert describe(model_of("block"))["modulation"] == "block"
    with pytest.raises(UserError, match=r"^model\.modulation must be one of block, single, got 'blocks'$"):
        model_of("blocks")
