"""Who sees whom: a number for every query and every key, and what a token that is no number does to others.

Numbers say at once that several sequences lie in a row, that a text is padded, and what a kernel that reads segment
ids wants.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from flexidit_jax.common.types import Array


class Seen(NamedTuple):
    """A query sees the keys of its own number.

    Attributes:
      queries: int32 [R or 1, L].
      keys: int32 [R or 1, M]; -1 of padding, which no query of a number from 0 on sees.
      finite: bool [R, M], whose keys and values are finite, where that was looked at before and others are zero.
    """

    queries: Array
    keys: Array
    finite: Array | None = None

    def pairs(self) -> Array:
        """bool [R or 1, L, M]; made inside the program, since a constant of this size would be a part of it."""
        return jnp.asarray(self.queries)[:, :, None] == jnp.asarray(self.keys)[:, None, :]


def finite_only(k: Array, v: Array, axes: tuple[int, ...] = (-2, -1)) -> tuple[Array, Array, Array]:
    """Keys and values [..., M, h, e] with zeros for tokens that are not finite along all `axes`, and which are."""
    finite = (jnp.isfinite(k) & jnp.isfinite(v)).all(axes, keepdims=True)
    return jnp.where(finite, k, 0), jnp.where(finite, v, 0), finite.squeeze(axes)


def sound(k: Array, v: Array, seen: Seen) -> tuple[Array, Array, Array]:
    """Keys and values without those that are not finite, since zero times NaN is NaN, and what these come to.

    Args:
      k, v: [R, M, h, e].

    Returns:
      k, v, and [R, L, 1, 1] to multiply the result by: 1; NaN for a query that sees what is not finite; 0 for one that
      sees nothing, whatever a kernel makes of that.
    """
    k, v, finite = (k, v, seen.finite) if seen.finite is not None else finite_only(k, v)
    pairs = seen.pairs()
    factor = jnp.where(pairs.any(-1), 1.0, 0.0)
    factor = jnp.where((pairs & ~finite[:, None]).any(-1), jnp.nan, factor)
    return k, v, factor[..., None, None]
