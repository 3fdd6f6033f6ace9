"""The transformer block: adaLN-Zero attention and MLP (DiT, arXiv 2212.09748).

Some leaves are *optional*: a mode's norm gain and shift and its LoRA live in the parameter tree only
where `models.flexify.at` put them, and a layer uses them if they are there. Linen never complains
about a leaf that nobody reads, so a test asserts that every leaf of `at` receives a gradient.

Without a layout a row of x is one sequence. With one (`Layout`), a row may hold several sequences, of
several modes: the modulation is computed per sequence and spread over its tokens, and attention stays
inside segments.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.axes import laid, ways
from flexidit_jax.common.types import Array
from flexidit_jax.models.attention import attention


class Layout(Protocol):
    """Where sequences lie in rows; hashable, every shape static."""

    def spread(self, per_sequence: Array) -> Array:
        """[..., d], a vector per sequence -> [R, L, d], that vector at each of its tokens."""

    def segments(self) -> np.ndarray:
        """int32 [R, L]: two tokens of a row see each other where the numbers are equal."""


def project(x: Array, kernel: Array, dtype: jnp.dtype) -> Array:
    """[..., k] @ [k, m] -> [..., m] in `dtype`.

    Leading axes are flattened: the weight gradient of a three-dimensional product is slow on XLA's
    CPU backend.
    """
    flat = x.reshape(-1, x.shape[-1]).astype(dtype) @ kernel.astype(dtype)
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


class Dense(nn.Module):
    """`x @ kernel + bias` over the last axis, plus `x @ lora_a @ lora_b` where the tree has them.

    With `order` the columns come in another order than they are stored in.
    """

    features: int
    dtype: jnp.dtype
    kernel_init: nn.initializers.Initializer = nn.initializers.xavier_uniform()
    order: Callable[[Array], Array] = lambda columns: columns

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        kernel = self.order(kernel.astype(self.dtype))  # cast first: what a mesh gathers is then half as large
        y = project(x, kernel, self.dtype) + self.order(bias).astype(self.dtype)
        if self.has_variable("params", "lora_a"):
            a, b = self.get_variable("params", "lora_a"), self.get_variable("params", "lora_b")
            y = y + project(project(x, a, self.dtype), self.order(b), self.dtype)
        return y


def layer_norm(x: Array) -> Array:
    """Layer norm without affine, eps 1e-6, in float32."""
    x = x.astype(jnp.float32)
    mean = x.mean(-1, keepdims=True)
    variance = jnp.square(x - mean).mean(-1, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-6)


def spread(per_sequence: Array, layout: Layout | None) -> Array:
    """A vector per sequence as something that broadcasts against the tokens [R, L, d]."""
    return per_sequence[:, None] if layout is None else layout.spread(per_sequence)


class ModulatedNorm(nn.Module):
    """`norm(x) (1 + scale) + shift`, with a mode's own gain g and shift b where the tree has them.

    `(norm(x) (1 + g) + b) (1 + scale) + shift` is applied to the *modulation*, which costs O(B d)
    instead of O(B N d) and is exact at g = b = 0.
    """

    layout: Layout | None = None

    @nn.compact
    def __call__(self, x: Array, shift: Array, scale: Array) -> Array:
        if self.has_variable("params", "gain"):
            gain, bias = self.get_variable("params", "gain"), self.get_variable("params", "shift")
            shift = shift + bias * (1 + scale)
            scale = scale + gain * (1 + scale)
        return layer_norm(x) * (1 + spread(scale, self.layout)) + spread(shift, self.layout)  # [B, N, d]


class Attention(nn.Module):
    """Multi-head self-attention over one image's tokens: a row, or a segment of one."""

    num_heads: int
    dtype: jnp.dtype
    implementation: str
    layout: Layout | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
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
        if self.layout is not None:
            segments = self.layout.segments()
            # compared inside the program: as a constant it would be [B, N, N]
            mask = jnp.asarray(segments)[:, None, :, None] == jnp.asarray(segments)[:, None, None, :]
        x = laid(attention(q, k, v, mask, self.implementation), "records", None, "heads")  # [B, N, h, d/h]
        return Dense(d, self.dtype, name="proj")(x.reshape(b, n, d))  # [B, N, d]


class Mlp(nn.Module):
    """Two dense layers around a tanh-approximated GELU."""

    hidden: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x, width = laid(Dense(self.hidden, self.dtype, name="fc1")(x), "records", None, "heads"), x.shape[-1]
        return Dense(width, self.dtype, name="fc2")(nn.gelu(x, approximate=True))  # [B, N, d]


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
        h = Attention(self.num_heads, self.dtype, self.attention, self.layout, name="attention")(h)
        x = laid(x + spread(gate_a, self.layout) * h, "records")  # [B, N, d]
        h = ModulatedNorm(self.layout, name="norm2")(x, shift_m, scale_m)
        h = Mlp(self.mlp_ratio * d, self.dtype, name="mlp")(h)
        return laid(x + spread(gate_m, self.layout) * h, "records"), None  # [B, N, d]


class Final(nn.Module):
    """The last modulated norm; c [B, d] is the condition after SiLU."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, c: Array) -> Array:
        modulation = laid(Dense(2 * x.shape[-1], self.dtype, nn.initializers.zeros, name="modulation")(c), "records")
        shift, scale = jnp.split(modulation.astype(jnp.float32), 2, axis=-1)
        return ModulatedNorm(name="norm")(x, shift, scale)  # [B, N, d]
