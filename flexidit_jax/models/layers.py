"""What blocks are made of: products, norms, the MLP.

Some leaves are *optional*: a mode's norm gain and shift and its LoRA live in the parameter tree only
where `models.flexify.at` put them, and a layer uses them if they are there. Linen never complains
about a leaf that nobody reads, so a test asserts that every leaf of `at` receives a gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from flexidit_jax.common.axes import laid, ways
from flexidit_jax.common.types import Array
from flexidit_jax.models.layout import Layout, per_token
from flexidit_jax.models.pieces import pieces
from flexidit_jax.models.position import timestep_features

#: bytes of the hidden layer of one sequence that a device may hold at once; above, its tokens come in pieces
MOST_HIDDEN = 2**28
#: tokens of a piece come by so many, as kernels of products want rows
LANES = 128


def project(x: Array, kernel: Array, dtype: jnp.dtype) -> Array:
    """[..., k] @ [k, m] -> [..., m] in `dtype`.

    Leading axes are flattened: the weight gradient of a three-dimensional product is slow on XLA's
    CPU backend. Not where a mesh may split records and tokens, which one axis of both could not say.
    """
    flat = x if ways("tokens") > 1 else x.reshape(-1, x.shape[-1])
    return (flat.astype(dtype) @ kernel.astype(dtype)).reshape(*x.shape[:-1], kernel.shape[-1])


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
        if self.is_initializing():
            kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        else:  # `param` would trace the initializers too, to compare shapes: a seventh of a model's tracing
            kernel, bias = self.get_variable("params", "kernel"), self.get_variable("params", "bias")
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


class NumberEmbedding(nn.Module):
    """Numbers [B], such as times, -> [B, d]: sin-cos features through a two-layer MLP."""

    width: int
    features: int = 256

    @nn.compact
    def __call__(self, numbers: Array) -> Array:
        init = nn.initializers.normal(0.02)
        h = Dense(self.width, jnp.float32, init, name="fc1")(timestep_features(numbers, self.features))
        return Dense(self.width, jnp.float32, init, name="fc2")(nn.silu(laid(h, "records")))  # [B, d]


class ModulatedNorm(nn.Module):
    """`norm(x) (1 + scale) + shift`; a mode's own leaves, where the tree has them, are part of the modulation.

    Attributes:
      dtype: of the result; in between all is float32.
    """

    dtype: jnp.dtype

    def has_own(self) -> bool:
        """Whether the mode has a gain and shift of its own."""
        return self.has_variable("params", "gain")

    def own(self) -> tuple[Array, Array]:
        """The mode's own gain, less 1, and shift, [d] each."""
        return self.get_variable("params", "gain"), self.get_variable("params", "shift")

    def __call__(self, x: Array, shift: Array, scale: Array, layout: Layout | None = None) -> Array:
        shift, scale = (per_token(part.astype(jnp.float32), layout) for part in (shift, scale))
        y = layer_norm(x) * (1 + scale) + shift
        return y.astype(self.dtype)  # [B, N, d]


class AffineNorm(nn.Module):
    """`norm(x) gain + shift`; in between all is float32."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gain = self.param("gain", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        shift = self.param("shift", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return (layer_norm(x) * gain + shift).astype(self.dtype)  # [B, N, d]


class Mlp(nn.Module):
    """Two dense layers around a tanh-approximated GELU; tokens of long sequences a piece after the other.

    Attributes:
      width: columns of tokens.
      hidden: columns between the layers.
      dtype: of products.
      split: words of the tokens and of the hidden columns (`common.axes.split`).
    """

    width: int
    hidden: int
    dtype: jnp.dtype
    split: tuple[str | None, str | None] = (None, "heads")

    def setup(self) -> None:
        self.fc1, self.fc2 = Dense(self.hidden, self.dtype), Dense(self.width, self.dtype)

    def __call__(self, x: Array) -> Array:
        """[B, N, width] -> the same."""
        length = x.shape[1]
        count = pieces(length * self.hidden * jnp.dtype(self.dtype).itemsize // ways("heads"), MOST_HIDDEN, length)
        if count == 1:
            return self._at_once(x)
        parts = jnp.pad(x, ((0, 0), (0, -length % (count * LANES)), (0, 0)))
        every = nn.scan(Mlp._piece, variable_broadcast="params", split_rngs={"params": False})
        parts = parts.reshape(x.shape[0], count, -1, self.width)  # records stay an axis, which a mesh splits
        made, _ = every(self, parts, jnp.arange(count))
        return made.reshape(x.shape[0], -1, self.width)[:, :length]

    def _piece(self, parts: Array, number: Array) -> tuple[Array, None]:
        """One in its place: what is not made yet is what it is made of, and there is no second array."""
        return parts.at[:, number].set(self._at_once(parts[:, number])), None

    def _at_once(self, x: Array) -> Array:
        return self.fc2(nn.gelu(laid(self.fc1(x), "records", *self.split), approximate=True))
