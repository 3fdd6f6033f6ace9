"""Weights as sampling reads them: cast once, shared once, blocks stacked or apart."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.trees import flatten, merge
from flexidit_jax.models.adapters import merged
from flexidit_jax.models.flexify import at
from flexidit_jax.sampling import weights as module
from flexidit_jax.sampling.engine import Engine
from flexidit_jax.sampling.weights import maker


@pytest.mark.parametrize("adapters", [None, 4])
def test_the_same_prediction_from_half_the_bytes(dit: FlexiDiT, adapters: int | None) -> None:
    flex = dit.flexify((2, 4), adapters=adapters)
    model = flex.model.clone(dtype="bfloat16")
    x = np.random.default_rng(0).normal(size=(2, *model.latent)).astype(np.float32)
    words = (x, np.array([900, 20]), model.conditioner.parse([1, 2]))
    make, sizes = maker(model, apart=False), {}
    for patch in flex.patches:
        params = at(flex.params, patch)
        for kind, ours in (("apart", params), ("merged", merged(params))):
            run, cast = jax.jit(model.at(patch).apply), merge(*make(ours))
            before, after = (run({"params": tree}, *words) for tree in (ours, cast))
            assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)), (patch, kind)
            sizes[patch, kind] = [sum(leaf.nbytes for leaf in jax.tree.leaves(t["blocks"])) for t in (ours, cast)]
    assert all(after < 0.52 * before for before, after in sizes.values()), sizes


def test_what_is_shared_stays_shared_and_conditioning_float32(flex: FlexiDiT) -> None:
    make = maker(flex.model.clone(dtype="bfloat16"), apart=False)
    one, two = (merge(*make(at(flex.params, patch))) for patch in flex.patches)
    assert one["blocks"]["mlp"]["fc1"]["kernel"] is two["blocks"]["mlp"]["fc1"]["kernel"]
    assert one["blocks"]["mlp"]["fc1"]["kernel"].dtype == one["embed"]["kernel"].dtype == jnp.bfloat16
    for part in ("timestep", "conditioner"):
        assert {leaf.dtype for leaf in jax.tree.leaves(one[part])} == {jnp.dtype("float32")}


@pytest.mark.parametrize("host", [True, False])
def test_apart_every_block_has_arrays_of_its_own(flex: FlexiDiT, host: bool) -> None:
    params = jax.tree.map(np.asarray if host else jnp.asarray, flex.params)
    make, depth = maker(flex.model, apart=True), flex.model.depth
    one, two = (make(at(params, patch)) for patch in flex.patches)
    flat, stacked = flatten(one.network), flatten(params["trunk"]["blocks"])
    assert "blocks" not in one.network
    for name, leaf in stacked.items():
        if name.startswith("modulation"):
            assert not any(f"/{name}" in path for path in flat)
            continue
        for i in range(depth):
            np.testing.assert_array_equal(flat[f"blocks_{i}/{name}"], leaf[i])
            assert flat[f"blocks_{i}/{name}"] is flatten(two.network)[f"blocks_{i}/{name}"]
    assert one.conditioning["blocks"]["modulation"]["kernel"].shape[0] == depth
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves([one, two]))


def test_in_bfloat16_q_k_and_v_are_apart(flex: FlexiDiT) -> None:
    """Three products give the bits of one, and no bias is cast in a step."""
    model, params = flex.model.clone(dtype="bfloat16"), at(flex.params, flex.patches[0])
    made, qkv = maker(model, apart=True)(params).network, np.asarray(params["blocks"]["attention"]["qkv"]["kernel"])
    assert set(made["blocks_0"]["attention"]) == {"q", "k", "v", "proj"}
    for name, part in zip("qkv", np.split(qkv[1], 3, -1), strict=True):
        np.testing.assert_array_equal(made["blocks_1"]["attention"][name]["kernel"], part.astype(jnp.bfloat16))
    assert {leaf.dtype for leaf in jax.tree.leaves(made["blocks_1"])} == {jnp.dtype("bfloat16")}
    stacked = maker(model, apart=False)(params).network["blocks"]["attention"]
    assert set(stacked) == set(made["blocks_0"]["attention"])
    np.testing.assert_array_equal(stacked["v"]["kernel"], np.split(qkv, 3, -1)[2].astype(jnp.bfloat16))


@pytest.mark.parametrize("adapters", [None, 4])
def test_in_bfloat16_apart_predicts_the_same(dit: FlexiDiT, adapters: int | None) -> None:
    flex = dit.flexify((2, 4), adapters=adapters)
    model, params = flex.model.clone(dtype="bfloat16").at((1, 4, 4)), at(flex.params, (1, 4, 4))
    x = np.random.default_rng(0).normal(size=(2, *model.latent)).astype(np.float32)
    t, cond = np.array([900, 20]), model.conditioner.parse([1, 2])
    outs = []
    for apart in (False, True):
        network, modulation = maker(model, apart)(params)
        ready = model.apply({"params": modulation}, t, cond, method="modulations")
        outs.append(jax.jit(model.apply)({"params": network}, x, t, cond, ready).output)
    assert np.abs(outs[1] - outs[0]).max() <= 1e-2 * np.abs(outs[0]).max()


def test_what_is_shared_is_made_once(flex: FlexiDiT, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    real = module._each
    monkeypatch.setattr(module, "_each", lambda *words: calls.append(1) or real(*words))
    make = maker(flex.model.clone(dtype="bfloat16"), apart=True)
    make(at(flex.params, flex.patches[0]))
    alone = len(calls)
    make(at(flex.params, flex.patches[1]))
    assert len(calls) == alone > 0


@pytest.mark.parametrize("adapters", [None, 2])
def test_apart_draws_the_same_samples(dit: FlexiDiT, adapters: int | None) -> None:
    flex = dataclasses.replace(dit.flexify((2, 4), adapters=adapters), merge_adapters=False)
    words = {"steps": 4, "schedule": "4:2,2:2", "guidance": 2.0, "decode": False, "progress": False}
    stacked = flex.sample([1, 2], **words)
    engine = Engine(flex.model, flex.params, flex.patches, merge=False, apart=True)
    flex.sampler.engine = engine
    apart = flex.sample([1, 2], **words)
    assert np.abs(apart - stacked).max() <= 1e-6 * np.abs(stacked).max()
    assert engine.weight_bytes() == Engine(flex.model, flex.params, flex.patches, merge=False).weight_bytes()


def test_float32_is_left_as_it_is(flex: FlexiDiT) -> None:
    params = jax.tree.map(jnp.asarray, at(flex.params, flex.patches[1]))
    made = merge(*maker(flex.model, apart=False)(params))
    assert all(map(lambda a, b: a is b, jax.tree.leaves(params), jax.tree.leaves(made)))


def test_shapes_alone_will_do(flex: FlexiDiT) -> None:
    """As lowering for other devices asks."""
    for apart in (False, True):
        made = jax.eval_shape(partial(maker(flex.model, apart)), at(flex.params, flex.patches[0]))
        assert len(jax.tree.leaves(made)) > 10
