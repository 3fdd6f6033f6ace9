"""Softmax attention, heads before tokens and the division last; long sequences in blocks of queries.

XLA's CPU backend runs its batched products at full speed only where the two axes multiplied come last,
and dividing the output [L, e] by the sum of the weights costs e / M of dividing the weights [L, M].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flexidit_jax.common.types import Array
from flexidit_jax.models.attention.seen import Seen
from flexidit_jax.models.pieces import pieces

#: bytes of float32 scores [R, h, L, M] that are held at once; above, queries come block by block
MOST_SCORES = 2**28


def suits(platform: str, dtype: jnp.dtype, q: tuple[int, ...], k: tuple[int, ...], seen: bool) -> str | None:
    """None: it runs everywhere."""
    return None


def attend(q: Array, k: Array, v: Array, seen: Seen | None) -> Array:
    """softmax(q k^T / sqrt(e)) v per head, the softmax in float32.

    The backward pass of blocks computes their scores again, so it holds no more of them either.

    Args:
      q: [R, L, h, e].
      k, v: [R, M, h, e], finite where `seen` is given (see `models.attention.seen.sound`).
      seen: None where every query sees every key.

    Returns:
      [R, L, h, e] in the dtype of v; a query that sees no key has the mean of v.
    """
    count = _blocks(q.shape, k.shape[1])
    if count == 1:
        return _attend(q, k, v, seen)
    length = q.shape[1]
    block = -(-length // count)

    def blocks(tokens: Array) -> Array:
        """[.., L, ...] -> [blocks, .., tokens of a block, ...], the last one filled up."""
        tokens = jnp.pad(tokens, ((0, 0), (0, count * block - length), *((0, 0),) * (tokens.ndim - 2)))
        return jnp.moveaxis(tokens.reshape(tokens.shape[0], count, block, *tokens.shape[2:]), 1, 0)

    @jax.checkpoint
    def one(queries: tuple[Array, Array | None]) -> Array:
        q, numbers = queries
        return _attend(q, k, v, seen and Seen(numbers, seen.keys))

    x = jax.lax.map(one, (blocks(q), seen and blocks(jnp.asarray(seen.queries))))
    return jnp.moveaxis(x, 0, 1).reshape(q.shape[0], count * block, *q.shape[2:])[:, :length]


def _blocks(q: tuple[int, ...], keys: int) -> int:
    """How many blocks the queries come in."""
    rows, length, heads, _ = q
    rows = rows if isinstance(rows, int) else 1  # a program for any batch
    return pieces(4 * rows * heads * length * keys, MOST_SCORES, length)


def _attend(q: Array, k: Array, v: Array, seen: Seen | None) -> Array:
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))  # [R, h, N, e]
    scores = jnp.einsum("bhqe,bhke->bhqk", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    if seen is not None:
        scores = jnp.where(seen.pairs()[:, None], scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))  # [R, h, L, M]
    x = jnp.einsum("bhqk,bhke->bhqe", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    x = x / weights.sum(-1, keepdims=True)
    return jnp.swapaxes(x, 1, 2).astype(v.dtype)  # [R, L, h, e]
