"""Tokens one piece after the other, where what is made of all of them at once is large."""

from __future__ import annotations

import jax.numpy as jnp

from flexidit_jax.common.types import Array


def pieces(whole: int, most: int, tokens: int) -> int:
    """In how many pieces so many tokens come, so that of `whole` bytes at most about `most` are there at once.

    A power of two, which divides most lengths.
    """
    return 1 << (min(-(-whole // most), tokens) - 1).bit_length()


def cut(x: Array, count: int) -> Array:
    """[R, N, ...] -> [count, R, tokens of a piece, ...], the last piece filled up with zeros."""
    rows, length = x.shape[:2]
    piece = -(-length // count)
    x = jnp.pad(x, ((0, 0), (0, count * piece - length), *((0, 0),) * (x.ndim - 2)))
    return jnp.moveaxis(x.reshape(rows, count, piece, *x.shape[2:]), 1, 0)


def joined(x: Array, length: int) -> Array:
    """The inverse, of `length` tokens."""
    count, rows, piece = x.shape[:3]
    return jnp.moveaxis(x, 0, 1).reshape(rows, count * piece, *x.shape[3:])[:, :length]
