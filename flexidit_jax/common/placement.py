"""Arrays onto the devices of all processes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flexidit_jax.common.types import Array

Tree = TypeVar("Tree")


def sent_once(copies: dict[Any, Tree], key: Hashable, send: Callable[[], Tree]) -> Tree:
    """What lies on devices under a key, sent there the first time that it is asked for."""
    if key not in copies:
        with jax.ensure_compile_time_eval():  # under a caller's jit, tracers would be kept for good
            copies[key] = send()
    return copies[key]


def put(leaf: Any, sharding: NamedSharding) -> Array:
    """An array laid out by `sharding`; where that spans several processes, each holds the same values to begin with."""
    here = getattr(leaf, "is_fully_addressable", True)
    if sharding.is_fully_addressable or not here:  # one process, or an array that lies on all of them already
        return jax.device_put(leaf, sharding)
    whole = np.asarray(leaf)  # device_put would send every leaf around to compare it
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def mesh_of(x: Any) -> Mesh | None:
    """The mesh that an array lies on; None of any other array."""
    sharding = getattr(x, "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) else None


def whole_on(leaf: Any, mesh: Mesh | None) -> Array:
    """An array on every device of a mesh; on the default one without."""
    return jnp.asarray(leaf) if mesh is None else put(leaf, NamedSharding(mesh, PartitionSpec()))
