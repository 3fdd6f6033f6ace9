"""The encoder of T5 v1.1 (Raffel et al., arXiv 1910.10683; Shazeer, arXiv 2002.05202): ids of a text -> its tokens.

That of UMT5 (arXiv 2304.09151) is the same, but that each block has a table of biases of its own.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.types import Array

#: distances at which buckets begin: one each below 8, then wider and wider
STARTS = (*range(8), 8, 12, 16, 23, 32, 46, 64, 91)
BUCKETS = 2 * len(STARTS)


def bucket(offset: np.ndarray) -> np.ndarray:
    """Which row of the table of biases a key has at `offset` places behind its query (before it, where negative)."""
    return len(STARTS) * (offset > 0) + np.searchsorted(STARTS, np.abs(offset), side="right") - 1


class Block(nn.Module):
    """Attention, then a gated MLP, each behind an RMS norm and around a skip; nothing has a bias.

    Products are of `dtype` and summed in float32. All else is float32, as the stream grows past what float16 holds.

    Attributes:
      heads, size: of attention, and channels a head; together they may differ from the width of the stream.
      hidden: width of the MLP.
    """

    heads: int
    size: int
    hidden: int
    eps: float
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, bias: Array) -> Array:
        """x [B, L, d], bias [B, heads, L, L] of every key for every query -> [B, L, d]."""
        d = x.shape[-1]
        x = x + self._dense(d, "out")(self._attended(nn.RMSNorm(self.eps, name="norm1")(x), bias))
        h = nn.RMSNorm(self.eps, name="norm2")(x)
        h = nn.gelu(self._dense(self.hidden, "wi_0")(h)) * self._dense(self.hidden, "wi_1")(h)  # gelu with tanh
        return x + self._dense(d, "wo")(h)  # [B, L, d]

    def _attended(self, x: Array, bias: Array) -> Array:
        b, n, _ = x.shape
        inner = self.heads * self.size
        q, k, v = (
            self._dense(inner, name)(x).reshape(b, n, self.heads, self.size).astype(self.dtype)
            for name in ("query", "key", "value")
        )
        product = partial(jnp.einsum, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(product("bqhe,bkhe->bhqk", q, k) + bias)  # logits are not scaled
        return product("bhqk,bkhe->bqhe", weights.astype(self.dtype), v).reshape(b, n, inner)

    def _dense(self, features: int, name: str) -> nn.Dense:
        summed = partial(jax.lax.dot_general, preferred_element_type=jnp.float32)
        return nn.Dense(features, use_bias=False, dtype=self.dtype, dot_general=summed, name=name)


class T5Encoder(nn.Module):
    """Ids [B, L] and which of them are of a text, bool [B, L] -> [B, L, width] float32.

    What stands where there is no text means nothing, and moves nothing else.

    Attributes:
      words: how many ids there are.
      width, depth, heads, size, hidden: d, blocks, and see `Block`.
      eps: of the norms.
      own_tables: whether each block has its own biases, or all those of the first.
      dtype: of products; "float32" means float32 on every backend.
    """

    words: int = 32128
    width: int = 4096
    depth: int = 24
    heads: int = 64
    size: int = 64
    hidden: int = 10240
    eps: float = 1e-6
    own_tables: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(self, ids: Array, mask: Array) -> Array:
        normal, dtype = nn.initializers.normal(1.0), jnp.dtype(self.dtype)
        place = np.arange(ids.shape[1])
        row = bucket(place[None] - place[:, None])  # [query, key]

        def bias(name: str) -> Array:
            of_heads = self.param(name, normal, (BUCKETS, self.heads))[row].transpose(2, 0, 1)  # [heads, query, key]
            return jnp.where(mask[:, None, None], of_heads, jnp.finfo(jnp.float32).min)  # [B, heads, L, L]

        shared = None if self.own_tables else bias("bias")
        with jax.default_matmul_precision("highest" if dtype == jnp.float32 else "default"):
            x = jnp.take(self.param("tokens", normal, (self.words, self.width)), ids, axis=0).astype(jnp.float32)
            for i in range(self.depth):
                own = bias(f"bias_{i}") if self.own_tables else shared
                x = Block(self.heads, self.size, self.hidden, self.eps, dtype, name=f"block_{i}")(x, own)
        return nn.RMSNorm(self.eps, name="norm")(x)
