"""Where shifts, scales and gates come from; a block is handed them and never learns it.

    "block"    Dense(6 d)(silu(e)) of each block, Dense(2 d)(silu(e)) of the last norm: adaLN-Zero (DiT,
               arXiv 2212.09748)
    "single"   table [6, d] of each block + one Dense(6 d)(silu(e)) for all of them; table [2, d] + e for the last norm:
               adaLN-single (PixArt-alpha, arXiv 2310.00426)

e [..., d] is the sum of the embedded time and condition. All of it depends on (time, condition) alone, so a sampler can
make it before the steps that read it (`sampling.tables`).
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from flexidit_jax.common.axes import laid
from flexidit_jax.common.types import Array
from flexidit_jax.models.layers import Dense, ModulatedNorm

SOURCES = ("block", "single")


class Shared(NamedTuple):
    """What the modulations of a (time, condition) begin with.

    Attributes:
      blocks: of every block, [..., d] ("block") or [..., 6 d] ("single").
      last: of the last norm, [..., d].
    """

    blocks: Array
    last: Array


class Modulations(NamedTuple):
    """All modulations of a (time, condition).

    Attributes:
      blocks: [L, ..., 6, d]; of each block shift, scale and gate of attention, then of the MLP.
      last: [..., 2, d]; shift and scale.
    """

    blocks: Array
    last: Array


class Projection(nn.Module):
    """The first part: the embedded time and condition, [..., d] -> `Shared`."""

    source: str

    @nn.compact
    def __call__(self, embedded: Array) -> Shared:
        c = laid(nn.silu(embedded), "records")
        if self.source == "block":
            return Shared(c, c)
        one = Dense(6 * c.shape[-1], jnp.float32, nn.initializers.normal(0.02), name="blocks")
        return Shared(laid(one(c), "records"), embedded)


class Product(Dense):
    """A projection of a block's own: [..., d] -> [..., features / d, d]."""

    def __call__(self, shared: Array) -> Array:
        made = laid(super().__call__(shared), "records")
        return made.astype(jnp.float32).reshape(*made.shape[:-1], -1, shared.shape[-1])

    def with_own(self, norm: ModulatedNorm, shift: Array, scale: Array) -> tuple[Array, Array]:
        """A mode's own gain g and shift b of a norm: `(norm(x) (1 + g) + b) (1 + scale) + shift`.

        Here instead of at the norm it costs O(B d) instead of O(B N d); it is exact at g = b = 0.
        """
        gain, bias = norm.own()
        return shift + bias * (1 + scale), scale + gain * (1 + scale)


class Table(nn.Module):
    """A table of a block's own, [parts, d], added to what is shared: [..., d] or [..., parts d] -> [..., parts, d]."""

    features: int
    width: int

    @nn.compact
    def __call__(self, shared: Array) -> Array:
        shape = (self.features // self.width, self.width)
        table = self.param("table", nn.initializers.normal(self.width**-0.5), shape, jnp.float32)
        return table + shared.reshape(*shared.shape[:-1], -1, self.width)

    def with_own(self, norm: ModulatedNorm, shift: Array, scale: Array) -> tuple[Array, Array]:
        """A mode's own gain and shift of a norm are deltas of the table.

        As gain and shift of the norm they could not be folded into a published model, whose projection is shared.
        """
        gain, bias = norm.own()
        return shift + bias, scale + gain


def modulation(source: str, parts: int, width: int, dtype: jnp.dtype) -> Product | Table:
    """What makes the `parts` of one block, or of the last norm."""
    if source == "single":
        return Table(parts * width, width)
    return Product(parts * width, dtype, nn.initializers.zeros)


def with_own(made: Array, source: Product | Table, *norms: ModulatedNorm) -> Array:
    """[..., parts, d] with each norm's own gain and shift in it; the parts of a norm begin with shift and scale."""
    each = made.shape[-2] // len(norms)
    parts = [made[..., i, :] for i in range(made.shape[-2])]
    for i, norm in enumerate(norms):
        if norm.has_own():
            parts[i * each : i * each + 2] = source.with_own(norm, *parts[i * each : i * each + 2])
    return jnp.stack(parts, -2)
