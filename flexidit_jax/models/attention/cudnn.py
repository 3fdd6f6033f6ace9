"""The fused kernel of NVIDIA GPUs, cuDNN's flash attention, as jax calls it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from flexidit_jax.common.types import Array
from flexidit_jax.models.attention.seen import Seen


def suits(platform: str, dtype: jnp.dtype, q: tuple[int, ...], k: tuple[int, ...], seen: bool) -> str | None:
    """None where it runs, forward and backward; else why not.

    Args:
      platform: what is compiled for.
      dtype: of q, k and v.
      q, k: shapes [R, L, h, e] and [R, M, h, e].
      seen: whether some queries do not see all keys.
    """
    if platform != "gpu":
        return f"it is a kernel of NVIDIA GPUs, and this is compiled for a {platform.upper()}"
    if dtype != jnp.bfloat16:
        return f"it computes in bfloat16, and the model in {dtype}"
    capability = getattr(jax.devices()[0], "compute_capability", None)
    if capability is not None and float(capability) < 8:
        return f"it needs an NVIDIA GPU of compute capability 8.0, and this one has {capability}"

    def loss(q: Array, k: Array, v: Array, seen: Seen | None) -> Array:
        return attend(q, k, v, seen).sum().astype(jnp.float32)

    arrays = (jax.ShapeDtypeStruct(shape, dtype) for shape in (q, k, k))
    numbers = Seen(*(jax.ShapeDtypeStruct(shape[:2], jnp.int32) for shape in (q, k))) if seen else None
    try:
        jax.eval_shape(jax.grad(loss, (0, 1, 2)), *arrays, numbers)  # the kernel itself says what it does not take
    except (RuntimeError, ValueError) as error:  # NotImplementedError is one
        return " ".join(str(error).split()).rstrip(".")
    return None


def attend(q: Array, k: Array, v: Array, seen: Seen | None) -> Array:
    """See `models.attention.xla.attend`; of a query that sees no key, whatever the kernel makes of it."""
    mask = None if seen is None else seen.pairs()[:, None]  # [R or 1, 1, L, M]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")
