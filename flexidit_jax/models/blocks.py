"""The transformer block: adaLN-Zero attention and MLP (DiT, arXiv 2212.09748), and the last norm.

Without a layout a row of x is one sequence. With one (`models.layout`), a row may hold several sequences, of
several modes: the modulation is computed per sequence and handed to each of its tokens, and attention stays
inside segments.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from flexidit_jax.common.axes import laid
from flexidit_jax.common.types import Array
from flexidit_jax.models.attention.attention import Attention
from flexidit_jax.models.layers import Dense, Mlp, ModulatedNorm
from flexidit_jax.models.layout import Layout, per_token, seen_in


class Block(nn.Module):
    """One adaLN-Zero block; c [B, d] (with a layout [..., d], one per sequence) is the condition after SiLU.

    The signature is that of a scan body: (carry, constant) -> (carry, None).
    """

    num_heads: int
    mlp_ratio: int
    dtype: jnp.dtype
    attention: str
    layout: Layout | None = None

    @nn.compact
    def __call__(self, x: Array, c: Array) -> tuple[Array, None]:
        d = x.shape[-1]
        modulation = laid(Dense(6 * d, self.dtype, nn.initializers.zeros, name="modulation")(c), "records")  # [B, 6d]
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = jnp.split(modulation.astype(jnp.float32), 6, axis=-1)
        h = ModulatedNorm(self.layout, name="norm1")(x, shift_a, scale_a)
        h = Attention(self.num_heads, self.dtype, self.attention, name="attention")(h, seen=seen_in(self.layout))
        x = laid(x + per_token(gate_a, self.layout) * h, "records")  # [B, N, d]
        h = ModulatedNorm(self.layout, name="norm2")(x, shift_m, scale_m)
        h = Mlp(self.mlp_ratio * d, self.dtype, name="mlp")(h)
        return laid(x + per_token(gate_m, self.layout) * h, "records"), None  # [B, N, d]


class Final(nn.Module):
    """The last modulated norm; c [B, d] is the condition after SiLU."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, c: Array) -> Array:
        modulation = laid(Dense(2 * x.shape[-1], self.dtype, nn.initializers.zeros, name="modulation")(c), "records")
        shift, scale = jnp.split(modulation.astype(jnp.float32), 2, axis=-1)
        return ModulatedNorm(name="norm")(x, shift, scale)  # [B, N, d]
