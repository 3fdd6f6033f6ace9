"""The pre-norm transformer block that DINOv2 and both towers of CLIP are made of."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax

from flexidit_jax.common.types import Array


def norm(eps: float, name: str) -> nn.LayerNorm:
    """With gain and shift; two passes, as E[x^2] - E[x]^2 loses the digits of channels far from zero."""
    return nn.LayerNorm(eps, use_fast_variance=False, name=name)


class Block(nn.Module):
    """Attention, then an MLP, each behind a norm and around a skip; all in float32.

    Attributes:
      heads: of attention.
      hidden: width of the MLP.
      eps: of the norms.
      activation: of the MLP.
      scaled: whether each branch has a gain a channel before it is added.
      causal: whether a token sees those before it and itself only.
    """

    heads: int
    hidden: int
    eps: float
    activation: Callable[[Array], Array]
    scaled: bool = False
    causal: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def scale(name: str, h: Array) -> Array:
            return h * self.param(name, nn.initializers.ones, (x.shape[-1],)) if self.scaled else h

        x = x + scale("scale1", self._attention(norm(self.eps, "norm1")(x)))  # [B, N, d]
        h = self.activation(nn.Dense(self.hidden, name="fc1")(norm(self.eps, "norm2")(x)))
        return x + scale("scale2", nn.Dense(x.shape[-1], name="fc2")(h))  # [B, N, d]

    def _attention(self, x: Array) -> Array:
        b, n, d = x.shape
        q, k, v = (nn.Dense(d, name=name)(x).reshape(b, n, self.heads, -1) for name in ("query", "key", "value"))
        h = jax.nn.dot_product_attention(q, k, v, is_causal=self.causal)  # [B, N, heads, d / heads]
        return nn.Dense(d, name="out")(h.reshape(b, n, d))


def gelu(x: Array) -> Array:
    """With the error function, not with tanh."""
    return nn.gelu(x, approximate=False)


def quick_gelu(x: Array) -> Array:
    """OpenAI's, with a sigmoid."""
    return x * jax.nn.sigmoid(1.702 * x)


#: by the name that configs of the transformers library have for them
ACTIVATIONS = {"gelu": gelu, "quick_gelu": quick_gelu}


def patches(features: int, side: int, use_bias: bool = True) -> nn.Conv:
    """Images [B, H, W, C] -> [B, H / side, W / side, features], for use in a module that calls it `patch`."""
    return nn.Conv(features, (side, side), (side, side), "VALID", use_bias=use_bias, name="patch")
