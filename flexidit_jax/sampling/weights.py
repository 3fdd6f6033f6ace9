"""A mode's weights as sampling reads them: of products in the model's dtype, those of conditioning apart.

A network in bfloat16 casts its kernels in every call. Where they do not change, casting them once gives the same bits
and halves what a call reads. `apart` gives every block arrays of its own: of stacked ones a step copies each block's
slice before it multiplies by it, where the compiler cannot read it in place. In bfloat16 q, k and v have kernels of
their own too: a fused kernel of attention wants three arrays, and slicing one product into them is a copy.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flexidit_jax.common.data_parallel import copied
from flexidit_jax.common.trees import flatten, unflatten
from flexidit_jax.common.types import Array, Params
from flexidit_jax.models.dit import DiT

#: parts whose products are in `DiT.dtype`, and their factors (of blocks the biases too); conditioning stays float32
PARTS, FACTORS = {"embed", "blocks", "final", "deembed"}, {"kernel", "lora_a", "lora_b"}
#: what modulations are made of, and of blocks and the last norm
CONDITIONING, OF_NORMS = {"timestep", "conditioner", "projection"}, {"modulation", "norm1", "norm2", "norm"}
#: of blocks, what `DiT.kept` makes of a condition's tokens
OF_TOKENS = {("cross_attention", part) for part in ("k", "v", "norm_k")}


class Weights(NamedTuple):
    """Plain parameters (`flexify.at`) in two trees.

    Attributes:
      network: what every step reads; blocks stacked as `blocks`, or apart as `blocks_0`, `blocks_1`, ...
      conditioning: what `DiT.modulations` and `DiT.kept` read, blocks stacked. A conditioner is in both.
    """

    network: Params
    conditioning: Params


def maker(model: DiT, apart: bool, mesh: Mesh | None = None) -> Callable[[Params], Weights]:
    """A function from plain parameters to weights on the device, of several on each.

    What trees share, such as the kernels of several modes, is made once, and they go on sharing it. Of parameters on
    the host one leaf at a time is on the device beside what is made.
    """
    done: dict[tuple[int, int], tuple[Array, list[Array]]] = {}  # by identity; a leaf is held: none takes its number
    three, copies = model.dtype == "bfloat16", model.depth if apart else 1

    def made(leaf: Array, cast: bool, columns: int) -> list[Array]:
        dtype = jnp.dtype(model.dtype) if cast else leaf.dtype
        if (id(leaf), columns) not in done:
            arrays = _each(leaf if apart else leaf[None], dtype, columns) if columns else [jnp.asarray(leaf, dtype)]
            done[id(leaf), columns] = leaf, copied(arrays, mesh)
        return done[id(leaf), columns][1]

    def weights(params: Params) -> Weights:
        network: dict[str, Array] = {}
        conditioning: dict[str, Array] = {}
        for path, leaf in flatten(params).items():
            keys = path.split("/")
            part, name = keys[0], keys[-1]
            modulates = part in CONDITIONING or (part in ("blocks", "final") and keys[1] in OF_NORMS)
            before = modulates or (part == "blocks" and tuple(keys[1:3]) in OF_TOKENS)
            in_blocks = part == "blocks" and not modulates
            cast = part in PARTS and (name in FACTORS or (in_blocks and name == "bias"))
            names = ("q", "k", "v") if three and "/qkv/" in path else ("qkv",)
            if in_blocks and not before and (apart or len(names) > 1):
                columns = 1 if name == "lora_a" else len(names)
                arrays = made(leaf, cast, columns)
                for i in range(copies):
                    for k, new in enumerate(names):
                        block = f"blocks_{i}" if apart else "blocks"
                        at = f"{block}{path.removeprefix('blocks').replace('/qkv/', f'/{new}/')}"
                        network[at] = arrays[i * columns + k % columns]
                continue
            array = made(leaf, cast, 0)[0]
            if before:
                conditioning[path] = array
            if not before or part == "conditioner":
                network[path] = array
        return Weights(unflatten(network), unflatten(conditioning))

    return weights


def _each(leaf: Array, dtype: jnp.dtype, columns: int) -> list[Array]:
    """[L, ...] as L arrays, or L times so many of equal columns."""
    if isinstance(leaf, np.ndarray):
        return [jnp.asarray(array, dtype) for part in leaf for array in np.split(part, columns, -1)]
    return list(_split(leaf, dtype, columns))


@partial(jax.jit, static_argnames=("dtype", "columns"))
def _split(leaf: Array, dtype: jnp.dtype, columns: int) -> tuple[Array, ...]:
    return tuple(array.astype(dtype) for part in leaf for array in jnp.split(part, columns, -1))
