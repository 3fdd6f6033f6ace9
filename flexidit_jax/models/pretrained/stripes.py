"""Convolutions of large images stripe by stripe, so that what lies between a norm and its convolution is never whole.

The norms of an autoencoder take their moments over the whole image, so tiles that are decoded by themselves are another
image. Here every activation is whole, and what is computed of it comes in stripes of rows: a convolution reads a stripe
with a row above and one below, which is exact.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from flexidit_jax.common.types import Array

#: pixels of an image that are convolved at once; of a larger one those of a stripe
WHOLE, STRIPE = 2**18, 2**16


class Moments(NamedTuple):
    """A group norm of an image whose moments are known: `(x - mean) factor + bias`, [B, 1, 1, d] each."""

    mean: Array
    factor: Array
    bias: Array

    def __call__(self, x: Array) -> Array:
        return (x.astype(jnp.float32) - self.mean) * self.factor + self.bias  # [B, H, W, d]


class GroupNorm(nn.Module):
    """Group norm with affine, eps 1e-6, in float32; two passes, as E[x^2] - E[x]^2 loses digits."""

    groups: int

    @nn.compact
    def __call__(self, x: Array) -> Moments:
        b, *_, d = x.shape
        scale = self.param("scale", nn.initializers.ones, (d,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (d,), jnp.float32)
        parts = x.reshape(b, -1, self.groups, d // self.groups).astype(jnp.float32)  # [B, HW, g, d/g]
        mean = parts.mean((1, 3), keepdims=True)
        variance = jnp.square(parts - mean).mean((1, 3), keepdims=True)

        def spread(moment: Array) -> Array:
            return jnp.repeat(moment.reshape(b, 1, 1, self.groups), d // self.groups, axis=-1)

        return Moments(spread(mean), spread(jax.lax.rsqrt(variance + 1e-6)) * scale, bias)


class Conv(nn.Module):
    """A convolution that keeps the size, or doubles it by repeating pixels first.

    Attributes:
      features: of the output.
      dtype: of the products.
      side: of the kernel, 3 or 1.
      double: the sides, before.
    """

    features: int
    dtype: jnp.dtype
    side: int = 3
    double: bool = False

    @nn.compact
    def __call__(self, x: Array, norm: Moments | None = None, onto: Array | None = None) -> Array:
        """[B, H, W, k] -> [B, H, W, d] or [B, 2H, 2W, d].

        Args:
          norm: comes before, with a SiLU.
          onto: [B, H, W, d], to which the result is added; of a large image in its place.
        """
        b, height, width, k = x.shape
        times, edge = 2 if self.double else 1, self.side // 2
        shape = self.side, self.side, k, self.features
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)

        def before(x: Array) -> Array:
            return (x if norm is None else nn.silu(norm(x))).astype(self.dtype)

        def convolved(x: Array, rows: int) -> Array:
            """With `rows` of zeros above and below."""
            padding = ((rows, rows), (edge, edge))
            axes = ("NHWC", "HWIO", "NHWC")
            y = jax.lax.conv_general_dilated(x, kernel.astype(self.dtype), (1, 1), padding, dimension_numbers=axes)
            return y + bias.astype(self.dtype)

        def repeated(x: Array) -> Array:
            return jnp.repeat(jnp.repeat(x, times, axis=1), times, axis=2) if self.double else x

        if (size := rows_of_stripe(height, times**2 * width)) == height:
            y = convolved(repeated(before(x)), edge)
            return y if onto is None else onto + y

        def stripe(i: Array, out: Array) -> Array:
            start = i * size

            def rows(first: Array, count: int) -> Array:
                """Outside the image zero, after the norm as before it."""
                part = jax.lax.dynamic_slice_in_dim(x, jnp.clip(first, 0, height - count), count, axis=1)
                return jnp.where((first >= 0) & (first < height), before(part), 0)

            parts = [rows(start - 1, 1), rows(start, size), rows(start + size, 1)] if edge else [rows(start, size)]
            read, more = repeated(jnp.concatenate(parts, axis=1)), edge * (times - 1)  # rows above and below
            y = convolved(read[:, more : read.shape[1] - more], 0)
            if onto is not None:
                y = y + jax.lax.dynamic_slice_in_dim(out, times * start, times * size, axis=1)
            return jax.lax.dynamic_update_slice_in_dim(out, y, times * start, axis=1)

        zero = 0 * before(x[:, :1, :1])[..., :1]  # a constant XLA would fill before all else, share, and keep
        empty = jnp.broadcast_to(zero, (b, times * height, times * width, self.features))
        return jax.lax.fori_loop(0, height // size, stripe, empty if onto is None else onto)


def rows_of_stripe(height: int, width: int) -> int:
    """How many rows are convolved at once: all of an image that is not large, else as many as divide it."""
    if height * width <= WHOLE:
        return height
    return max(rows for rows in range(1, height + 1) if height % rows == 0 and (rows == 1 or rows * width <= STRIPE))
