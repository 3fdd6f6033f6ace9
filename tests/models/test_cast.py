"""Weights cast once."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.api import FlexiDiT
from flexidit_jax.models.adapters import merged
from flexidit_jax.models.cast import caster
from flexidit_jax.models.flexify import at


@pytest.mark.parametrize("adapters", [None, 4])
def test_the_same_prediction_from_half_the_bytes(dit: FlexiDiT, adapters: int | None) -> None:
    flex = dit.flexify((2, 4), adapters=adapters)
    model = flex.model.clone(dtype="bfloat16")
    x = np.random.default_rng(0).normal(size=(2, *model.latent)).astype(np.float32)
    words = (x, np.array([900, 20]), model.conditioner.parse([1, 2]))
    cast, sizes = caster(model), {}
    for patch in flex.patches:
        params = at(flex.params, patch)
        for kind, ours in (("apart", params), ("merged", merged(params))):
            run = jax.jit(model.at(patch).apply)
            before, after = (run({"params": tree}, *words) for tree in (ours, cast(ours)))
            assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)), (patch, kind)
            sizes[patch, kind] = [sum(leaf.nbytes for leaf in jax.tree.leaves(t["blocks"])) for t in (ours, cast(ours))]
    assert all(after < 0.52 * before for before, after in sizes.values()), sizes


def test_what_is_shared_stays_shared_and_conditioning_float32(flex: FlexiDiT) -> None:
    cast = caster(flex.model.clone(dtype="bfloat16"))
    one, two = (cast(at(flex.params, patch)) for patch in flex.patches)
    assert one["blocks"]["mlp"]["fc1"]["kernel"] is two["blocks"]["mlp"]["fc1"]["kernel"]
    assert one["blocks"]["mlp"]["fc1"]["kernel"].dtype == one["embed"]["kernel"].dtype == jnp.bfloat16
    for part in ("timestep", "conditioner"):
        assert {leaf.dtype for leaf in jax.tree.leaves(one[part])} == {jnp.dtype("float32")}


def test_what_is_shared_is_cast_once(flex: FlexiDiT, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    monkeypatch.setattr(
        "flexidit_jax.models.cast.jnp", SimpleNamespace(asarray=lambda *words: made.append(1) or jnp.asarray(*words))
    )
    cast = caster(flex.model.clone(dtype="bfloat16"))
    cast(at(flex.params, flex.patches[0]))
    alone = len(made)
    cast(at(flex.params, flex.patches[1]))
    assert alone > len(made) - alone == 2  # the second mode's own embed and de-embed


def test_float32_is_left_as_it_is(flex: FlexiDiT) -> None:
    params = at(flex.params, flex.patches[1])
    assert all(map(lambda a, b: a is b, jax.tree.leaves(params), jax.tree.leaves(caster(flex.model)(params))))
