"""Softmax attention, heads before tokens and the division last.

XLA's CPU backend runs its batched products at full speed only where the two axes multiplied come last,
and dividing the output [N, e] by the sum of the weights costs e / N of dividing the weights [N, N].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Array


def attention(q: Array, k: Array, v: Array, mask: Array | None, implementation: str) -> Array:
    """softmax(q k^T / sqrt(e)) v per head, the softmax in float32.

    Args:
      q, k, v: [B, N, h, e]. With a mask a token whose k or v is not finite makes NaN of itself, and not of others in
        its row that do not see it.
      mask: bool [B or 1, 1, N, N], true where a token (third axis) sees another; each sees at least one.
      implementation: "xla" is this file; "cudnn" the fused kernel of a GPU.

    Returns:
      [B, N, h, e] in the dtype of v.

    Raises:
      UserError: the implementation is not one of this machine.
    """
    if mask is not None:  # zero times NaN is NaN
        sound = jnp.isfinite(k) & jnp.isfinite(v)
        x = _attention(q, jnp.where(sound, k, 0), jnp.where(sound, v, 0), mask, implementation)
        return jnp.where(sound, x, jnp.nan)
    return _attention(q, k, v, mask, implementation)


def _attention(q: Array, k: Array, v: Array, mask: Array | None, implementation: str) -> Array:
    if implementation != "xla":
        try:
            return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation=implementation)
        except RuntimeError as error:  # said while tracing, before anything compiles
            raise UserError(f"model.attention={implementation!r} does not run here ({error}); use 'xla'") from None
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))  # [B, h, N, e]
    scores = jnp.einsum("bhqe,bhke->bhqk", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))  # [B, h, N, N]
    x = jnp.einsum("bhqk,bhke->bhqe", weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
    x = x / weights.sum(-1, keepdims=True)
    return jnp.swapaxes(x, 1, 2).astype(v.dtype)  # [B, N, h, e]
