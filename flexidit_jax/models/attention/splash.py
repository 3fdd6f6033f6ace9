"""The fused kernel of TPUs, jax's splash attention: scores live in the chip's own memory, a block at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.types import Array
from flexidit_jax.models.attention.seen import Seen

#: the kernel's lanes: it takes tokens by so many, and blocks of at most `BLOCK`
LANES, BLOCK = 128, 512


def suits(platform: str, dtype: jnp.dtype, q: tuple[int, ...], k: tuple[int, ...], seen: bool) -> str | None:
    """None where it runs, else why not; see `models.attention.cudnn.suits`."""
    if platform != "tpu":
        return f"it is a kernel of TPUs, and this is compiled for a {platform.upper()}"
    if dtype != jnp.bfloat16:  # its backward pass knows no other precision
        return f"it computes in bfloat16, and the model in {dtype}"
    return None


def attend(q: Array, k: Array, v: Array, seen: Seen | None, interpret: bool = False) -> Array:
    """See `models.attention.xla.attend`; of a query that sees no key, whatever the kernel makes of it.

    Tokens are filled up to whole blocks, and the padding is seen by no token.

    Args:
      interpret: run the kernel's program without a TPU.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as splash  # a second to load, where it is used

    rows, length, heads, width = q.shape
    (queries, block_q), (keys, block_k) = (_filled(x.shape[1]) for x in (q, k))
    if seen is None and keys != k.shape[1]:
        seen = Seen(*(np.zeros((1, x.shape[1]), np.int32) for x in (q, k)))
    q, k, v = (
        jnp.pad(jnp.swapaxes(x, 1, 2), ((0, 0), (0, 0), (0, whole - x.shape[1]), (0, 0)))
        for x, whole in ((q * width**-0.5, queries), (k, keys), (v, keys))
    )  # [R, h, N, e]
    numbers = None
    if seen is not None:
        numbers = splash.SegmentIds(
            *(
                jnp.broadcast_to(jnp.pad(x, ((0, 0), (0, whole - x.shape[1])), constant_values=blank), (rows, whole))
                for x, whole, blank in ((seen.queries, queries, -2), (seen.keys, keys, -3))
            )
        )
    sizes = splash.BlockSizes(
        block_q=block_q, block_kv=block_k, block_q_dkv=block_q, block_kv_dkv=block_k, block_q_dq=block_q,
        block_kv_dq=block_k,
    )  # fmt: skip
    mask = splash.MultiHeadMask([splash.FullMask((queries, keys))] * heads)
    kernel = splash.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret)
    x = jax.vmap(kernel)(q, k, v, numbers)  # [R, h, N, e]
    return jnp.swapaxes(x[:, :, :length], 1, 2)


def _filled(tokens: int) -> tuple[int, int]:
    """The length in whole blocks, and the block: the largest that makes the sequence no longer than it has to be."""
    whole = -(-tokens // LANES) * LANES
    return whole, max(size for size in range(LANES, BLOCK + 1, LANES) if whole % size == 0)
