"""A mode as a plain DiT of the published layout: norms, patch embedding and LoRA folded away.

With `scale = W_s c + b_s` and `shift = W_h c + b_h` the modulated norm with gain g and shift b is

    norm(x) (1 + g)(1 + scale) + shift + b (1 + scale)

which is a plain one whose modulation has `W_s (1 + g)`, `b_s (1 + g) + g`, `W_h + W_s b` and
`b_h + b (1 + b_s)`. Exact, and only for export: it copies a third of the weights.
"""

from __future__ import annotations

import jax.numpy as jnp

from flexidit_jax.common.types import Array, Params
from flexidit_jax.models.adapters import merged


def folded(params: Params) -> Params:
    """The plain parameters of a mode (from `flexify.at`) without the leaves of modes."""
    params = merged(params)
    if "patch_embedding" not in params:
        return params
    blocks = {key: value for key, value in params["blocks"].items() if key not in ("norm1", "norm2")}
    modulation = blocks["modulation"]
    for norm, first in (("norm1", 0), ("norm2", 3)):  # chunks of shift, scale, gate for each half of a block
        modulation = _fold_norm(modulation, params["blocks"][norm], first)
    embed = params["embed"]
    rest = {key: value for key, value in params.items() if key not in ("patch_embedding", "blocks", "embed", "final")}
    return {
        **rest,
        "embed": {"kernel": embed["kernel"], "bias": embed["bias"] + params["patch_embedding"]},
        "blocks": {**blocks, "modulation": modulation},
        "final": {"modulation": _fold_norm(params["final"]["modulation"], params["final"]["norm"], 0)},
    }


def _fold_norm(modulation: Params, norm: Params, first: int) -> Params:
    """Folds a mode's own gain and shift of a norm into what makes its modulation, see `models.modulation`."""
    if "table" in modulation:
        table = modulation["table"]
        delta = jnp.stack([norm["shift"], norm["gain"]], -2)
        return {"table": jnp.asarray(table).at[..., first : first + 2, :].add(delta)}
    return _fold_product(modulation, norm, first)


def _fold_product(modulation: Params, norm: Params, first: int) -> Params:
    """Folds a gain and shift into chunks `first` (shift) and `first + 1` (scale) of a modulation.

    Args:
      modulation: kernel [..., d, k d] and bias [..., k d].
      norm: gain (minus 1) and shift, [..., d].
    """
    gain, bias = norm["gain"], norm["shift"]
    d = gain.shape[-1]

    def chunk(array: Array, i: int) -> Array:
        return array[..., i * d : (i + 1) * d]

    def replaced(array: Array, shift: Array, scale: Array) -> Array:
        return jnp.concatenate([array[..., : first * d], shift, scale, array[..., (first + 2) * d :]], axis=-1)

    kernel, offset = modulation["kernel"], modulation["bias"]
    row, column = gain[..., None, :], bias[..., None, :]
    return {
        "kernel": replaced(
            kernel,
            chunk(kernel, first) + chunk(kernel, first + 1) * column,
            chunk(kernel, first + 1) * (1 + row),
        ),
        "bias": replaced(
            offset,
            chunk(offset, first) + bias * (1 + chunk(offset, first + 1)),
            chunk(offset, first + 1) * (1 + gain) + gain,
        ),
    }
