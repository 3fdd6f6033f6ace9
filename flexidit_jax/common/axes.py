"""Names for what an axis of an activation runs over, turned into axes of the mesh that is in use, if any.

Parameters are placed by a table of paths (`training.sharding`); activations by the words here, where the compiler
would otherwise choose otherwise. Without a mesh every function here does nothing.

One axis of the mesh, `tensor`, splits either heads or tokens: `split` says which.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from flexidit_jax.common.types import Array

MESH_AXES = {"records": ("data", "fsdp"), "tokens": ("tensor",), "heads": ("tensor",)}


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


def split(heads: int) -> tuple[str | None, str | None]:
    """The words of the tokens [R, N, ..] and of the heads, or columns, of a network with so many heads.

    Heads are split where the mesh divides them. Else tokens are, of any number: queries of each device then read the
    keys and values of all.
    """
    return ("tokens", None) if heads % ways("heads") else (None, "heads")


def platform() -> str:
    """What a program is traced for, "cpu", "gpu" or "tpu": that of the mesh in use, else where arrays go by default."""
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.config.jax_default_device
    return jax.default_backend() if device is None else getattr(device, "platform", device)


def laid(x: Array, *words: str | None) -> Array:
    """`x` with its axes split as the words say; None and axes not named mean whole.

    Whole are those too that the mesh does not divide, but for tokens: the last devices have fewer.
    """
    return jax.lax.with_sharding_constraint(x, _spec(x, words)) if _ours() else x


def mapped(function: Callable[..., Array], *words: tuple[str | None, ...]) -> Callable[..., Array]:
    """`function` run by each device on its parts of the arguments: for what the compiler does not split by itself.

    Args:
      words: of every argument, as `laid` takes them; the result lies as the first argument does. Tokens are filled up
        with zeros to parts of one length, and the result is cut.
    """
    if not _ours():
        return function

    def run(*args: Array) -> Array:
        specs = tuple(map(_spec, args, words))
        whole = jax.shard_map(function, in_specs=specs, out_specs=specs[0], check_vma=False)(*map(_even, args, words))
        return whole[tuple(map(slice, args[0].shape))]

    return run


def _even(x: Array, words: tuple[str | None, ...]) -> Array:
    """`x` with tokens filled up to what the mesh divides."""
    missing = [-size % ways(word) if word == "tokens" else 0 for size, word in zip(x.shape, words)]
    return jnp.pad(x, [(0, n) for n in missing] + [(0, 0)] * (x.ndim - len(missing))) if any(missing) else x


def _ours() -> bool:
    """Whether a mesh is in use, and not one of another kind (`common.data_parallel`)."""
    return set().union(*MESH_AXES.values()) <= set(jax.sharding.get_abstract_mesh().axis_names)


def _spec(x: Array, words: tuple[str | None, ...]) -> PartitionSpec:
    uneven = ("tokens",)
    axes = (MESH_AXES[w] if w and (w in uneven or size % ways(w) == 0) else None for size, w in zip(x.shape, words))
    return PartitionSpec(*axes)
