"""Which file computes attention: the one asked for, or the fused kernel that suits what is compiled for, if any."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module

import jax.numpy as jnp

from flexidit_jax.common.axes import mapped, platform, split
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.notes import note
from flexidit_jax.common.types import Array
from flexidit_jax.models.attention.seen import Seen, sound

#: files here that call a kernel; `xla` runs everywhere
FUSED = ("cudnn", "splash")
NAMES = ("auto", "xla", *FUSED)


def attend(name: str, q: Array, k: Array, v: Array, seen: Seen | None = None) -> Array:
    """softmax(q k^T / sqrt(e)) v per head, the softmax in float32.

    A query that sees a key whose k or v is not finite is NaN, and others are not; one that sees no key is zero.

    Args:
      name: of `NAMES`.
      q: [R, L, h, e].
      k, v: [R, M, h, e].
      seen: None where every query sees every key.

    Returns:
      [R, L, h, e] in the dtype of v.

    Raises:
      UserError: a kernel that does not run on what is compiled for.
    """
    backend = chosen(name, platform(), q.dtype, q.shape, k.shape, seen is not None)
    kernel = import_module(f"{__package__}.{backend}").attend

    def run(q: Array, k: Array, v: Array, *numbers: Array) -> Array:
        return kernel(q, k, v, Seen(*numbers) if numbers else None)

    (tokens, heads), numbers = split(q.shape[2]), () if seen is None else (seen.queries, seen.keys)
    every = ("records", None, heads)  # the compiler splits no kernel, and no loop over blocks of queries
    run = mapped(run, ("records", tokens, heads), every, every, *[("records", tokens), ("records",)][: len(numbers)])
    if seen is None:
        return run(q, k, v)
    k, v, factor = sound(k, v, seen)
    return run(q, k, v, *numbers) * factor.astype(v.dtype)


def chosen(
    name: str, platform: str, dtype: jnp.dtype, q: tuple[int, ...], k: tuple[int, ...], seen: bool = False
) -> str:
    """The file that a name means there; where there is a choice, it is said once.

    Args:
      name: of `NAMES`.
      platform: what is compiled for.
      dtype: of q, k and v.
      q, k: shapes [R, L, h, e] and [R, M, h, e].
      seen: whether some queries do not see all keys.

    Raises:
      UserError: the one asked for does not run there.
    """
    if name != "auto":
        if (why := _why_not(name, platform, dtype, q, k, seen)) is not None:
            raise UserError(f"model.attention={name!r} does not run here ({why}); use 'auto'")
        return name
    reasons = {file: _why_not(file, platform, dtype, q, k, seen) for file in FUSED}
    fits = next((file for file, why in reasons.items() if why is None), None)
    if fits is not None:
        note(f"attention runs by the fused kernel {fits}")
    elif platform != "cpu":
        note(f"attention runs without a fused kernel ({'; '.join(f'{file}: {why}' for file, why in reasons.items())})")
    return fits or "xla"


@lru_cache
def _why_not(name: str, *asked: object) -> str | None:
    if name in FUSED and not all(isinstance(size, int) for shape in asked[2:4] for size in shape):
        return "this is for batches of any size"
    return import_module(f"{__package__}.{name}").suits(*asked)
