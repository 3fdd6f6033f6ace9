"""CLIP's two towers (Radford et al., arXiv 2103.00020): an image and a text as vectors of one space."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from flexidit_jax.common.types import Array
from flexidit_jax.models.pretrained.transformer import ACTIVATIONS, Block, norm, patches


class Tower(nn.Module):
    """What both towers have. Everything is float32, on every backend.

    Attributes:
      width, depth, heads, hidden: of the transformer and its MLPs.
      features: of the space that both towers end in.
      activation: by its name in `transformer.ACTIVATIONS`.
      eps: of the norms.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    features: int
    activation: str = "quick_gelu"
    eps: float = 1e-5

    def blocks(self, x: Array, causal: bool) -> Array:
        activation = ACTIVATIONS[self.activation]
        for i in range(self.depth):
            x = Block(self.heads, self.hidden, self.eps, activation, causal=causal, name=f"block_{i}")(x)
        return x

    def projected(self, x: Array) -> Array:
        return nn.Dense(self.features, use_bias=False, name="projection")(x)


class Vision(Tower):
    """Images [B, S, S, 3], normalised -> [B, features].

    Attributes:
      patch: pixels along a side of a patch.
      grid: patches along a side of an image.
    """

    patch: int = 14
    grid: int = 16

    @property
    def side(self) -> int:
        """S, pixels along a side of an image."""
        return self.patch * self.grid

    @nn.compact
    def __call__(self, x: Array) -> Array:
        d, normal = self.width, nn.initializers.normal(0.02)
        with jax.default_matmul_precision("highest"):
            tokens = patches(d, self.patch, use_bias=False)(x).reshape(len(x), -1, d)  # [B, N, d]
            first = jnp.broadcast_to(self.param("class_token", normal, (d,)), (len(x), 1, d))
            tokens = jnp.concatenate([first, tokens], axis=1)  # [B, 1 + N, d]
            tokens = tokens + self.param("positions", normal, (1 + self.grid**2, d))
            tokens = self.blocks(norm(self.eps, "norm_before")(tokens), causal=False)
            return self.projected(norm(self.eps, "norm_after")(tokens[:, 0]))


class Text(Tower):
    """Ids [B, N] of a text, an end and what fills the row -> [B, features].

    Attributes:
      words: how many ids there are; the last one ends a text.
      length: N.
    """

    words: int = 49408
    length: int = 77

    @nn.compact
    def __call__(self, ids: Array) -> Array:
        d, normal = self.width, nn.initializers.normal(0.02)
        with jax.default_matmul_precision("highest"):
            x = jnp.take(self.param("tokens", normal, (self.words, d)), ids, axis=0)  # [B, N, d]
            x = self.blocks(x + self.param("positions", normal, (self.length, d)), causal=True)
            end = jnp.argmax(ids, axis=1)[:, None, None]  # the first, as it has the largest id
            x = norm(self.eps, "norm")(jnp.take_along_axis(x, end, axis=1)[:, 0])
            return self.projected(x)


class Clip(nn.Module):
    """Both towers; initialisation runs both."""

    vision: Vision
    text: Text

    def __call__(self, x: Array, ids: Array) -> tuple[Array, Array]:
        return self.vision(x), self.text(ids)

    def image(self, x: Array) -> Array:
        """See `Vision`."""
        return self.vision(x)

    def words(self, ids: Array) -> Array:
        """See `Text`."""
        return self.text(ids)
