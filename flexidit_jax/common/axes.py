"""Names for what an axis of an activation runs over, turned into axes of the mesh that is in use, if any.

Parameters are placed by a table of paths (`training.sharding`); activations by the words here, where the compiler
would otherwise choose otherwise. Without a mesh every function here does nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from flexidit_jax.common.types import Array

MESH_AXES = {"records": ("data", "fsdp"), "heads": ("tensor",)}


def using(mesh: Mesh | None) -> AbstractContextManager:
    """Inside, also while tracing, the other functions speak of `mesh` (axes data, fsdp, tensor)."""
    return nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def on(device: jax.Device) -> AbstractContextManager:
    """Inside, also while tracing, `platform` is that of one device, which may be one that is only described."""
    return using(Mesh(np.array([device]), ("one",)))


def ways(word: str) -> int:
    """Over how many devices axes of this name are split; 1 without a mesh."""
    shape = jax.sharding.get_abstract_mesh().shape if _ours() else {}
    return math.prod(shape.get(axis, 1) for axis in MESH_AXES[word])


def platform() -> str:
    """What a program is traced for, "cpu", "gpu" or "tpu": that of the mesh in use, else where arrays go by default."""
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.config.jax_default_device
    return jax.default_backend() if device is None else getattr(device, "platform", device)


def laid(x: Array, *words: str | None) -> Array:
    """`x` with its axes split as the words say; None and axes not named mean whole, as do those that do not divide."""
    return jax.lax.with_sharding_constraint(x, _spec(x, words)) if _ours() else x


def mapped(function: Callable[..., Array], *words: tuple[str | None, ...]) -> Callable[..., Array]:
    """`function` run by each device on its parts of the arguments: for what the compiler does not split by itself.

    Args:
      words: of every argument, for all arrays in it, as `laid` takes them; the result lies as the first argument does.
    """
    if not _ours():
        return function

    def run(*args: Any) -> Array:
        specs = tuple(jax.tree.map(lambda x, w=w: _spec(x, w), arg) for arg, w in zip(args, words, strict=True))
        return jax.shard_map(function, in_specs=specs, out_specs=specs[0], check_vma=False)(*args)

    return run


def _ours() -> bool:
    """Whether a mesh is in use, and not one of another kind (`common.data_parallel`)."""
    return set().union(*MESH_AXES.values()) <= set(jax.sharding.get_abstract_mesh().axis_names)


def _spec(x: Array, words: tuple[str | None, ...]) -> PartitionSpec:
    split = (MESH_AXES[word] if word and size % ways(word) == 0 else None for size, word in zip(x.shape, words))
    return PartitionSpec(*split)
