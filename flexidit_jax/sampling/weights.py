"""A mode's weights as sampling reads them: factors of products in the model's dtype, those of modulations apart.

A network in bfloat16 casts its kernels in every call. Where they do not change, casting them once gives the same bits
and halves what a call reads. `apart` gives every block arrays of its own: of stacked ones a step copies each block's
slice before it multiplies by it, where the compiler cannot read it in place.
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

#: parts whose products are in `DiT.dtype`, and their factors; conditioning stays float32
PARTS, FACTORS = {"embed", "blocks", "final", "deembed"}, {"kernel", "lora_a", "lora_b"}
#: what modulations are made of, and of blocks and the last norm
CONDITIONING, OF_NORMS = {"timestep", "conditioner", "projection"}, {"modulation", "norm1", "norm2", "norm"}


class Weights(NamedTuple):
    """Plain parameters (`flexify.at`) in two trees.

    Attributes:
      network: what every step reads; blocks stacked as `blocks`, or apart as `blocks_0`, `blocks_1`, ...
      modulation: what `DiT.modulations` reads, blocks stacked. A conditioner is in both.
    """

    network: Params
    modulation: Params


def maker(model: DiT, apart: bool, mesh: Mesh | None = None) -> Callable[[Params], Weights]:
    """A function from plain parameters to weights on the device, of several on each.

    What trees share, such as the kernels of several modes, is made once, and they go on sharing it. Of parameters on
    the host one leaf at a time is on the device beside what is made.
    """
    done: dict[tuple[int, bool], tuple[Array, list[Array]]] = {}  # by identity; a leaf is held: none takes its number

    def made(leaf: Array, cast: bool, each: bool) -> list[Array]:
        dtype = jnp.dtype(model.dtype) if cast else leaf.dtype
        if (id(leaf), each) not in done:
            done[id(leaf), each] = leaf, copied(_each(leaf, dtype) if each else [jnp.asarray(leaf, dtype)], mesh)
        return done[id(leaf), each][1]

    def weights(params: Params) -> Weights:
        network: dict[str, Array] = {}
        modulation: dict[str, Array] = {}
        for path, leaf in flatten(params).items():
            part, inner = (*path.split("/"), "")[:2]
            conditioning = part in CONDITIONING or (part in ("blocks", "final") and inner in OF_NORMS)
            each = apart and part == "blocks" and not conditioning
            arrays = made(leaf, part in PARTS and path.rsplit("/", 1)[-1] in FACTORS, each)
            if conditioning:
                modulation[path] = arrays[0]
            if each:
                network |= {f"blocks_{i}{path.removeprefix('blocks')}": array for i, array in enumerate(arrays)}
            elif not conditioning or part == "conditioner":
                network[path] = arrays[0]
        return Weights(unflatten(network), unflatten(modulation))

    return weights


def _each(leaf: Array, dtype: jnp.dtype) -> list[Array]:
    """[L, ...] as L arrays."""
    return [jnp.asarray(part, dtype) for part in leaf] if isinstance(leaf, np.ndarray) else list(_split(leaf, dtype))


@partial(jax.jit, static_argnames="dtype")
def _split(leaf: Array, dtype: jnp.dtype) -> tuple[Array, ...]:
    return tuple(part.astype(dtype) for part in leaf)
