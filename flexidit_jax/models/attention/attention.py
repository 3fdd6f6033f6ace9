"""Attention as a module: projections, heads, who sees whom."""

from __future__ import annotations

import math

import flax.linen as nn
import jax.numpy as jnp

from flexidit_jax.common.axes import laid, ways
from flexidit_jax.common.types import Array
from flexidit_jax.models.attention.xla import attention
from flexidit_jax.models.layers import Dense
from flexidit_jax.models.layout import Layout


class Attention(nn.Module):
    """Multi-head self-attention over one image's tokens: a row, or a segment of one."""

    num_heads: int
    dtype: jnp.dtype
    implementation: str

    @nn.compact
    def __call__(self, x: Array, layout: Layout | None = None) -> Array:
        b, n, d = x.shape
        # stored as q, k, v; where heads are split over devices, each computes q, k and v of its own: s, (q, k, v)
        s = math.gcd(ways("heads"), self.num_heads)

        def device_first(columns: Array) -> Array:
            return columns.reshape(-1, 3, s, d // s).swapaxes(1, 2).reshape(columns.shape)

        qkv = laid(Dense(3 * d, self.dtype, order=device_first, name="qkv")(x), "records", None, "heads")  # [B, N, 3d]
        q, k, v = jnp.moveaxis(qkv.reshape(b, n, s, 3, -1, d // self.num_heads), 3, 0).reshape(
            3, b, n, self.num_heads, -1
        )
        mask = None
        if layout is not None:
            segments = layout.segments()
            # compared inside the program: as a constant it would be [B, N, N]
            mask = jnp.asarray(segments)[:, None, :, None] == jnp.asarray(segments)[:, None, None, :]
        x = laid(attention(q, k, v, mask, self.implementation), "records", None, "heads")  # [B, N, h, d/h]
        return Dense(d, self.dtype, name="proj")(x.reshape(b, n, d))  # [B, N, d]
