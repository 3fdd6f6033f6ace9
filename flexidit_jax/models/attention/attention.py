"""Attention as a module: projections, norms and positions of q and k, heads."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from flexidit_jax.common.axes import laid, split, ways
from flexidit_jax.common.types import Array
from flexidit_jax.models.attention.backend import attend
from flexidit_jax.models.attention.kept import Kept
from flexidit_jax.models.attention.seen import Seen
from flexidit_jax.models.layers import Dense


class Attention(nn.Module):
    """Multi-head attention of tokens to each other, or to those of a source.

    The projections are one, `qkv`, of tokens to each other; with a source, or where the tree has them, three, `q`, `k`
    and `v`: the columns of the one, for whom slicing its product would cost more than three products.

    Attributes:
      num_heads: h; head i has the columns from i d/h on.
      dtype: of products.
      backend: of `models.attention.backend.NAMES`.
      qk_norm: None, or "rms": q and k over their root mean square, in float32, over all d columns before they are
        split into heads (as Wan has it), times a gain.
    """

    num_heads: int
    dtype: jnp.dtype
    backend: str = "auto"
    qk_norm: str | None = None

    def kept(self, source: Array) -> Kept:
        """What calls read of a source, [R, M, d]; it does not depend on their x."""
        return self(None, source)

    @nn.compact
    def __call__(
        self,
        x: Array | None,
        source: Array | Kept | None = None,
        rope: Array | None = None,
        seen: Seen | None = None,
    ) -> Array | Kept:
        """Args:
          x: [R, L, d]; None for what is `kept` of the source.
          source: [R, M, d], read for k and v, or what is kept of it; None: x itself.
          rope: cos and sin of angles, [2, L, e/2] or [2, R, L, e/2], by which pairs of neighbouring columns of q and k
            turn; of tokens to each other.
          seen: None where every token sees all.

        Returns:
          [R, L, d].
        """
        if source is None and not self.has_variable("params", "q"):
            q, k, v = self._fused(x)
        else:
            read = x if source is None else source
            q = None if x is None else self._projected("q", x)
            k, v = read if isinstance(read, Kept) else (self._projected(name, read) for name in "kv")
        if self.qk_norm is not None:
            q = None if x is None else RmsNorm(name="norm_q")(q)
            k = k if isinstance(source, Kept) else RmsNorm(name="norm_k")(k)
        if x is None:
            return Kept(k, v)
        if rope is not None:
            q, k = turned(q, *rope), turned(k, *rope)
        d = x.shape[-1]
        x = laid(attend(self.backend, q, k, v, seen), "records", *split(self.num_heads))  # [R, L, h, e]
        return Dense(d, self.dtype, name="proj")(x.reshape(*x.shape[:2], d))

    def _projected(self, name: str, x: Array) -> Array:
        """[R, N, d] -> [R, N, h, e]."""
        x = Dense(x.shape[-1], self.dtype, name=name)(x)
        return laid(x, "records", *split(self.num_heads)).reshape(*x.shape[:2], self.num_heads, -1)

    def _fused(self, x: Array) -> Array:
        """q, k and v, [3, R, N, h, e]."""
        b, n, d = x.shape
        # stored as q, k, v; where heads are split over devices, each computes q, k and v of its own: s, (q, k, v)
        tokens, heads = split(self.num_heads)
        s = ways(heads) if heads else 1

        def device_first(columns: Array) -> Array:
            return columns.reshape(-1, 3, s, d // s).swapaxes(1, 2).reshape(columns.shape)

        qkv = laid(Dense(3 * d, self.dtype, order=device_first, name="qkv")(x), "records", tokens, heads)  # [R, N, 3d]
        qkv = jnp.moveaxis(qkv.reshape(b, n, s, 3, -1, d // self.num_heads), 3, 0)
        return qkv.reshape(3, b, n, self.num_heads, -1)


class RmsNorm(nn.Module):
    """x over its root mean square over all heads, times a gain; eps 1e-6, in float32."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        heads, width = x.shape[-2:]
        gain = self.param("gain", nn.initializers.ones, (heads * width,), jnp.float32)
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.square(y).mean((-2, -1), keepdims=True) + 1e-6)
        return (y * gain.reshape(heads, width)).astype(x.dtype)


def turned(x: Array, cos: Array, sin: Array) -> Array:
    """Each pair (a, b) of neighbouring columns as (a cos - b sin, a sin + b cos), in float32.

    Args:
      x: [R, N, h, e].
      cos, sin: [N, e/2] or [R, N, e/2].
    """
    a, b = jnp.moveaxis(x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2), -1, 0)
    cos, sin = cos[..., None, :], sin[..., None, :]  # the same of every head
    return jnp.stack([a * cos - b * sin, a * sin + b * cos], axis=-1).reshape(x.shape).astype(x.dtype)
