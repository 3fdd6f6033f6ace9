"""LoRA on self-attention and feed-forward layers, one set per adapted mode (FlexiDiT section 3.2).

An adapted layer holds `lora_a` [d_in, r] and `lora_b` [r, d_out] beside its kernel, stacked over the
blocks like it. `b` starts at zero, so that an adapter starts as no change. Cross-attention has none.
"""

from __future__ import annotations

from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.types import Params, Patch

#: paths below `blocks`
LAYERS = (("attention", "qkv"), ("attention", "proj"), ("mlp", "fc1"), ("mlp", "fc2"))


def fresh(params: Params, rank: int, patch: Patch) -> Params:
    """New adapters of the mode `patch` for plain DiT parameters, as a tree to lay over them.

    `a` is drawn from N(0, 1/d_in) with a key of the layer and the mode: no two share one, and an EMA passed
    through `flexify` beside its parameters gets the same one, whatever other modes there are.
    """
    tree: Params = {}
    for i, (part, layer) in enumerate(LAYERS):
        kernel = params["blocks"][part][layer]["kernel"]
        depth, d_in, d_out = kernel.shape
        key = reduce(jax.random.fold_in, patch, jax.random.key(i))
        a = jax.random.normal(key, (depth, d_in, rank)) / d_in**0.5
        tree.setdefault(part, {})[layer] = {"lora_a": a, "lora_b": jnp.zeros((depth, rank, d_out))}
    return {"blocks": tree}


def rank_of(tree: Params) -> int | None:
    """r of a plain tree or of one mode's own leaves; None without adapters."""
    part, layer = LAYERS[0]
    leaves = tree.get("blocks", {}).get(part, {}).get(layer, {})
    return leaves["lora_a"].shape[-1] if "lora_a" in leaves else None


def merged(params: Params) -> Params:
    """Plain DiT parameters with every adapter added into its kernel: no cost left at inference."""
    if rank_of(params) is None:
        return params
    blocks = {key: dict(value) for key, value in params["blocks"].items()}
    for part, layer in LAYERS:
        leaves = blocks[part][layer]
        a, b = leaves["lora_a"], leaves["lora_b"]
        on_host = isinstance(leaves["kernel"], np.ndarray)  # there it stays: a device has room for one copy
        update = np.matmul(a, b) if on_host else jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
        blocks[part][layer] = {"kernel": leaves["kernel"] + update, "bias": leaves["bias"]}
    return {**params, "blocks": blocks}
