"""Attention by XLA against the formula in float64, what a bfloat16 model keeps in float32, and blocks of queries."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from flexidit_jax.models.attention import xla
from flexidit_jax.models.attention.backend import attend
from flexidit_jax.models.attention.seen import Seen

SHAPE = (2, 33, 3, 16)  # of 16 features a head the scale is 1/4, which rounds nothing
#: three of ten tokens and one of three
SEEN = Seen(*[np.arange(SHAPE[1], dtype=np.int32)[None] // 10] * 2)


def inputs(dtype: type) -> list[np.ndarray]:
    """q, k and v; keys have a part in common, which takes about 60 from every score and changes no weight."""
    q, k, v = np.random.default_rng(0).normal(size=(3, *SHAPE))
    return [x.astype(dtype) for x in (q + 2, k - 8, v)]


def exact(q: np.ndarray, k: np.ndarray, v: np.ndarray, seen: Seen | None = None) -> np.ndarray:
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    scores = np.einsum("bqhe,bkhe->bhqk", q, k) / np.sqrt(q.shape[-1])
    if seen is not None:
        scores = np.where(np.asarray(seen.pairs())[:, None], scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhqk,bkhe->bqhe", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("seen", [None, SEEN], ids=["all", "segments"])
def test_the_formula(seen: Seen | None) -> None:
    q, k, v = inputs(np.float32)
    np.testing.assert_allclose(xla.attend(q, k, v, seen), exact(q, k, v, seen), atol=2e-5)


def test_scores_and_softmax_of_a_bfloat16_model_are_float32() -> None:
    """What is left is the rounding of weights and of the result; a score of -60 has quarters left in bfloat16."""
    q, k, v = inputs(ml_dtypes.bfloat16)
    ours = xla.attend(q, k, v, None)
    assert ours.dtype == jnp.bfloat16
    error = np.abs(np.asarray(ours, np.float64) - exact(q, k, v)).mean()
    assert 1e-4 < error < 2e-3


# ---------------------------------------------------------------- Blocks of queries


def value_and_gradients(seen: Seen | None) -> Any:
    return jax.value_and_grad(lambda q, k, v: jnp.sum(jnp.sin(xla.attend(q, k, v, seen))), (0, 1, 2))


def arrays_in(jaxpr: Any) -> Iterator[tuple[int, ...]]:
    """The shape of every array that a program makes, also within its loops."""
    for equation in jaxpr.eqns:
        for variable in equation.outvars:
            yield variable.aval.shape
        for inner in jax.core.jaxprs_in_params(equation.params):
            yield from arrays_in(inner)


@pytest.mark.parametrize("seen", [None, SEEN], ids=["all", "segments"])
def test_blocks_are_the_whole(monkeypatch: pytest.MonkeyPatch, seen: Seen | None) -> None:
    """33 queries in 4 blocks of 9, the last one filled up."""
    arrays = inputs(np.float32)
    whole = xla.attend(*arrays, seen), value_and_gradients(seen)(*arrays)
    monkeypatch.setattr(xla, "MOST_SCORES", 4 * 2 * 3 * 10 * 33)
    blocks = xla.attend(*arrays, seen), value_and_gradients(seen)(*arrays)
    for ours, theirs in zip(jax.tree.leaves(blocks), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_no_pass_makes_more_scores_than_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    def largest() -> int:
        program = jax.make_jaxpr(value_and_gradients(SEEN))(*inputs(np.float32))
        return max(int(np.prod(shape)) for shape in arrays_in(program.jaxpr))

    assert largest() == 2 * 3 * 33 * 33
    limit = 2 * 3 * 10 * 33
    monkeypatch.setattr(xla, "MOST_SCORES", 4 * limit)
    assert largest() <= max(limit, 2 * 36 * 3 * 16)  # a block's scores, or q filled up


def test_a_device_holds_its_own_scores_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    q, seen = (256, 1024, 16, 72), []
    assert [xla._blocks(q, 1024), xla._blocks((1, 256, 16, 72), 256)] == [64, 1]
    monkeypatch.setattr(xla, "_blocks", lambda *sizes: seen.append(sizes) or 1)
    arrays = [jax.ShapeDtypeStruct(q, jnp.float32)] * 3
    for tensor, heads in ((2, 8), (3, 16)):  # three devices split no 16 heads: each has a third of the queries
        mesh = jax.sharding.AbstractMesh((4, 4, tensor), ("data", "fsdp", "tensor"))
        with jax.sharding.use_abstract_mesh(mesh):
            assert jax.eval_shape(partial(attend, "xla"), *arrays).shape == q
        assert seen.pop() == ((16, 1024 if tensor == 2 else 342, heads, 72), 1024)
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((4,), ("data",))):  # within it, q is a device's own
        assert jax.eval_shape(partial(attend, "xla"), *arrays).shape == q
    assert seen == [(q, 1024)]
