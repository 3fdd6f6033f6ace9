"""The module against the formula in float64: norms and positions of q and k, a source, the ways it is stored."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.common.trees import flatten
from flexidit_jax.models.attention.attention import Attention, RmsNorm, turned
from flexidit_jax.models.attention.seen import Seen

R, L, M, D, HEADS = 2, 6, 5, 24, 3
MODULE = Attention(HEADS, jnp.float32)
SEEN = Seen(np.arange(L, dtype=np.int32)[None] // 3, np.array([[0, 0, 1, -1, 1], [1, 0, 0, 0, -1]], np.int32))


def tokens(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=(R, number, D)).astype(np.float32)


X, SOURCE = tokens(L), tokens(M)
ANGLES = np.random.default_rng(0).normal(size=(L, D // HEADS // 2))
ROPE = np.cos(ANGLES).astype(np.float32), np.sin(ANGLES).astype(np.float32)


def made(module: Attention, *inputs: Any) -> dict[str, Any]:
    """Parameters, all moved off their first values."""
    rng = np.random.default_rng(1)
    params = module.init(jax.random.key(0), *inputs)["params"]
    return jax.tree.map(lambda leaf: leaf + 0.2 * rng.normal(size=leaf.shape).astype(np.float32), params)


def run(module: Attention, params: Any, *inputs: Any, **words: Any) -> np.ndarray:
    with jax.default_matmul_precision("highest"):
        return np.asarray(module.apply({"params": params}, *inputs, **words))


def three(params: dict[str, Any]) -> dict[str, Any]:
    """The columns of qkv as q, k and v."""
    columns = {key: np.split(leaf, 3, axis=-1) for key, leaf in params["qkv"].items()}
    apart = {name: {key: parts[i] for key, parts in columns.items()} for i, name in enumerate("qkv")}
    return {**{key: value for key, value in params.items() if key != "qkv"}, **apart}


def formula(
    params: dict[str, Any], x: np.ndarray, source: np.ndarray, norm: bool = False, turn: bool = False, seen: Any = None
) -> np.ndarray:
    """In float64, from q, k and v; of the tokens that see something."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def dense(name: str, x: np.ndarray) -> np.ndarray:
        return x @ params[name]["kernel"] + params[name]["bias"]

    q, k, v = dense("q", x.astype(np.float64)), *(dense(name, source.astype(np.float64)) for name in "kv")
    if norm:  # over all columns, before heads
        q, k = (
            a / np.sqrt((a**2).mean(-1, keepdims=True) + 1e-6) * params[f"norm_{name}"]["gain"]
            for a, name in ((q, "q"), (k, "k"))
        )
    q, k, v = (a.reshape(R, -1, HEADS, D // HEADS) for a in (q, k, v))
    if turn:  # as complex numbers
        turned = [(a[..., ::2] + 1j * a[..., 1::2]) * np.exp(1j * ANGLES)[:, None] for a in (q, k)]
        q, k = (np.stack([a.real, a.imag], -1).reshape(R, L, HEADS, -1) for a in turned)
    scores = np.einsum("rqhe,rkhe->rhqk", q, k) / np.sqrt(D // HEADS)
    if seen is not None:
        scores = np.where((seen.queries[:, :, None] == seen.keys[:, None])[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    x = np.einsum("rhqk,rkhe->rqhe", weights / weights.sum(-1, keepdims=True), v)
    return dense("proj", x.reshape(R, -1, D))


@pytest.mark.parametrize("norm", [None, "rms"])
@pytest.mark.parametrize("rope", [None, ROPE, tuple(np.stack([part] * R) for part in ROPE)], ids=["", "rope", "ropes"])
def test_tokens_among_themselves(norm: str | None, rope: Any) -> None:
    module = MODULE.clone(qk_norm=norm)
    params = made(module, X)
    wanted = formula(three(params), X, X, norm is not None, rope is not None)
    np.testing.assert_allclose(run(module, params, X, rope=rope), wanted, rtol=0, atol=1e-5)
    np.testing.assert_allclose(run(module, three(params), X, rope=rope), wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("norm", [None, "rms"])
@pytest.mark.parametrize("seen", [None, SEEN], ids=["all", "seen"])
def test_a_source(norm: str | None, seen: Seen | None) -> None:
    module = MODULE.clone(qk_norm=norm)
    params = made(module, X, SOURCE)
    found = run(module, params, X, SOURCE, seen=seen)
    np.testing.assert_allclose(found, formula(params, X, SOURCE, norm is not None, seen=seen), rtol=0, atol=1e-5)


def test_what_is_stored() -> None:
    def shapes(module: Attention, *inputs: Any) -> dict[str, tuple[int, ...]]:
        return {name: leaf.shape for name, leaf in flatten(made(module, *inputs)).items() if name.endswith(("l", "n"))}

    assert shapes(MODULE, X) == {"qkv/kernel": (D, 3 * D), "proj/kernel": (D, D)}
    across = dict.fromkeys(("q/kernel", "k/kernel", "v/kernel", "proj/kernel"), (D, D))
    norms = {"norm_q/gain": (D,), "norm_k/gain": (D,)}
    assert shapes(MODULE.clone(qk_norm="rms"), X, SOURCE) == across | norms


def test_adapters_of_three_are_those_of_one() -> None:
    """The same first factor, the columns of the second."""
    params, rng = made(MODULE, X), np.random.default_rng(2)
    a, b = rng.normal(size=(D, 2)).astype(np.float32), rng.normal(size=(2, 3 * D)).astype(np.float32)
    apart = three(params)
    for i, name in enumerate("qkv"):
        apart[name] |= {"lora_a": a, "lora_b": b[:, i * D : (i + 1) * D]}
    params["qkv"] |= {"lora_a": a, "lora_b": b}
    np.testing.assert_allclose(run(MODULE, params, X), run(MODULE, apart, X), rtol=0, atol=2e-5)


def test_norms_and_turns_of_a_bfloat16_model_are_float32() -> None:
    """They round once, at the end."""
    x = jnp.asarray(X.reshape(R, L, HEADS, -1), jnp.bfloat16)
    gain = {"params": {"gain": np.linspace(0.5, 2.0, D, dtype=np.float32)}}
    for run in (partial(RmsNorm().apply, gain), lambda x: turned(x, *ROPE)):
        found, exact = run(x), run(x.astype(jnp.float32))
        assert (found.dtype, exact.dtype) == (jnp.bfloat16, jnp.float32)
        np.testing.assert_array_equal(found, exact.astype(jnp.bfloat16))
