"""The transformer block: modulated attention and MLP (DiT, arXiv 2212.09748), and the last norm.

Without a layout a row of x is one sequence. With one (`models.layout`), a row may hold several sequences, of
several modes: the modulation is that of a sequence and handed to each of its tokens, and attention stays
inside segments.
"""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from flexidit_jax.common.axes import laid, split
from flexidit_jax.common.types import Array
from flexidit_jax.models.attention.attention import Attention
from flexidit_jax.models.attention.kept import Kept
from flexidit_jax.models.layers import AffineNorm, Mlp, ModulatedNorm
from flexidit_jax.models.layout import Layout, Source, per_token, seen_in
from flexidit_jax.models.modulation import modulation, with_own


class Block(nn.Module):
    """One block. Where its modulation comes from is up to the caller; `modulated` makes it from what is shared.

    Where a condition has tokens, they are read between attention and MLP, without gate (PixArt-alpha), behind a norm of
    its own where `cross_norm` (Wan 2.1).
    """

    width: int
    num_heads: int
    hidden: int
    dtype: jnp.dtype
    backend: str
    source: str
    qk_norm: str | None = None
    cross_norm: bool = False

    def setup(self) -> None:
        self.modulation = modulation(self.source, 6, self.width, self.dtype)
        self.norm1, self.norm2 = ModulatedNorm(self.dtype), ModulatedNorm(self.dtype)
        self.attention = Attention(self.num_heads, self.dtype, self.backend, self.qk_norm)
        self.cross_attention = Attention(self.num_heads, self.dtype, self.backend, self.qk_norm)
        if self.cross_norm:
            self.norm_cross = AffineNorm(self.dtype)
        self.mlp = Mlp(self.width, self.hidden, self.dtype, split(self.num_heads))

    def modulated(self, shared: Array) -> Array:
        """`Shared.blocks` -> [..., 6, d]."""
        return with_own(self.modulation(shared), self.modulation, self.norm1, self.norm2)

    def kept(self, tokens: Array) -> Kept:
        """What it reads of the tokens of a condition, [B, M, d]."""
        return self.cross_attention.kept(tokens)

    def __call__(
        self,
        x: Array,
        m: Array,
        layout: Layout | None = None,
        source: Source | None = None,
        number: Array | int | None = None,
        rope: Array | None = None,
    ) -> Array:
        """[B, N, d] and its modulation [B, 6, d]; with a layout rows [R, L, d] and [..., 6, d], one a sequence.

        `number` is the block's, by which it finds what is its own of a source; `rope`, what tokens turn by, is
        [2, N, e/2] or [2, R, L, e/2] (`models.position.rotations`).
        """
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = (m[..., i, :] for i in range(6))
        h = self.norm1(x, shift_a, scale_a, layout)
        h = self.attention(h, rope=rope, seen=seen_in(layout))
        x = self._added(x, h, per_token(gate_a, layout))  # [B, N, d]
        if source is not None:
            h = self.norm_cross(x) if self.cross_norm else x
            x = self._added(x, self.cross_attention(h, source.of(number), seen=source.seen))
        h = self.norm2(x, shift_m, scale_m, layout)
        return self._added(x, self.mlp(h), per_token(gate_m, layout))  # [B, N, d]

    def _added(self, x: Array, more: Array, gate: Array | None = None) -> Array:
        """`x + gate more`, the product in float32, the sum in the dtype of x, the residual stream.

        A float32 sum that is rounded afterwards would not do: XLA leaves such roundings out, and the stream float32.
        """
        more = more if gate is None else gate.astype(jnp.float32) * more
        return laid(x + more.astype(x.dtype), "records", split(self.num_heads)[0])


class Final(nn.Module):
    """The last modulated norm."""

    width: int
    dtype: jnp.dtype
    source: str

    def setup(self) -> None:
        self.modulation = modulation(self.source, 2, self.width, self.dtype)
        self.norm = ModulatedNorm(self.dtype)

    def modulated(self, shared: Array) -> Array:
        """`Shared.last` -> [..., 2, d]."""
        return with_own(self.modulation(shared), self.modulation, self.norm)

    def __call__(self, x: Array, m: Array) -> Array:
        """[B, N, d] and its modulation [B, 2, d]."""
        return self.norm(x, m[..., 0, :], m[..., 1, :])  # [B, N, d]
