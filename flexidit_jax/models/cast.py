"""Weights in the type they are multiplied in.

A network in bfloat16 casts its kernels in every call. Where they do not change, as in sampling, casting them once
gives the same bits and halves what a call reads.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from flexidit_jax.common.types import Array, Params
from flexidit_jax.models.dit import DiT

#: parts whose products are in `DiT.dtype`, and their factors; conditioning stays float32
PARTS, FACTORS = {"embed", "blocks", "final", "deembed"}, {"kernel", "lora_a", "lora_b"}


def caster(model: DiT) -> Callable[[Params], Params]:
    """A function from plain parameters to the same with every factor of a product in `model.dtype`.

    What trees share, such as the kernels of several modes, it casts once, and they go on sharing it.
    """
    done: dict[int, tuple[Array, Array]] = {}  # by identity; the leaf is held so that no other takes its number

    def cast(path: tuple[jax.tree_util.DictKey, ...], leaf: Array) -> Array:
        if path[0].key not in PARTS or path[-1].key not in FACTORS or leaf.dtype == model.dtype:
            return leaf
        if id(leaf) not in done:
            done[id(leaf)] = leaf, jnp.asarray(leaf, model.dtype)
        return done[id(leaf)][1]

    return lambda params: jax.tree_util.tree_map_with_path(cast, params)
