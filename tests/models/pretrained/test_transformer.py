"""The block of DINOv2 and CLIP: its sum as written down, norms of channels far from zero, who sees whom."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.common.types import Params
from flexidit_jax.models.pretrained.transformer import ACTIVATIONS, Block, quick_gelu

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 5, 8)).astype(np.float32)


def drawn(block: Block) -> Params:
    shapes = jax.eval_shape(block.init, jax.random.key(0), X)["params"]
    return jax.tree.map(lambda leaf: RNG.standard_normal(leaf.shape).astype(np.float32) / 2, shapes)


def normed(x: np.ndarray, params: Params, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * params["scale"] + params["bias"]


def block_in_float64(x: np.ndarray, params: Params, eps: float) -> np.ndarray:
    """Two heads, scaled, with quick GELU."""

    def dense(h: np.ndarray, name: str) -> np.ndarray:
        return h @ params[name]["kernel"] + params[name]["bias"]

    x = x.astype(np.float64)
    h = normed(x, params["norm1"], eps)
    q, k, v = (dense(h, name).reshape(*x.shape[:2], 2, -1) for name in ("query", "key", "value"))
    logits = np.einsum("bqhc,bkhc->bhqk", q, k) / np.sqrt(q.shape[-1])
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    h = np.einsum("bhqk,bkhc->bqhc", odds / odds.sum(-1, keepdims=True), v).reshape(x.shape)
    x = x + params["scale1"] * dense(h, "out")
    h = dense(normed(x, params["norm2"], eps), "fc1")
    return x + params["scale2"] * dense(h / (1 + np.exp(-1.702 * h)), "fc2")


@pytest.mark.parametrize("offset", [0, 300])
def test_a_block_far_from_zero_too(offset: float) -> None:
    block = Block(2, 16, 1e-6, quick_gelu, scaled=True)
    params, x = drawn(block), X + np.float32(offset)
    there = block_in_float64(x, params, 1e-6)
    np.testing.assert_allclose(block.apply({"params": params}, x), there, atol=1e-3 if offset else 1e-4)


def test_a_causal_token_sees_what_was_before_it() -> None:
    changed = X.copy()
    changed[:, 3:] = RNG.standard_normal((2, 2, 8))
    for causal in (True, False):
        block = Block(2, 16, 1e-5, quick_gelu, causal=causal)
        params = drawn(block)
        first, second = (block.apply({"params": params}, x)[:, :3] for x in (X, changed))
        assert bool((jnp.abs(first - second) < 1e-6).all()) is causal


def test_activations() -> None:
    values = {name: float(activation(jnp.float32(1))) for name, activation in ACTIVATIONS.items()}
    assert values == {"gelu": pytest.approx(0.8413447), "quick_gelu": pytest.approx(0.8457958)}
