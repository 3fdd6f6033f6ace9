"""Names for what an axis of an activation runs over, turned into axes of the mesh that is in use, if any.

Parameters are placed by a table of paths (`training.sharding`); activations by the words here, where the compiler
would otherwise choose otherwise. Without a mesh every function here does nothing.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

import jax
from jax.sharding import Mesh, PartitionSpec

from flexidit_jax.common.types import Array

MESH_AXES = {"records": ("data", "fsdp"), "heads": ("tensor",)}


def using(mesh: Mesh | None) -> AbstractContextManager:
    """Inside, also while tracing, the other functions speak of `mesh` (axes data, fsdp, tensor)."""
    return nullcontext() if mesh is None else jax.sharding.use_abstract_mesh(mesh.abstract_mesh)


def ways(word: str) -> int:
    """Over how many devices axes of this name are split; 1 without a mesh."""
    shape = jax.sharding.get_abstract_mesh().shape
    return math.prod(shape.get(axis, 1) for axis in MESH_AXES[word])


def laid(x: Array, *words: str | None) -> Array:
    """`x` with its axes split as the words say; None and axes not named mean whole, as do those that do not divide."""
    if not set().union(*MESH_AXES.values()) <= set(jax.sharding.get_abstract_mesh().axis_names):
        return x  # none, or one of another kind (`common.data_parallel`)
    axes = [MESH_AXES[word] if word and size % ways(word) == 0 else None for size, word in zip(x.shape, words)]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*axes))
