"""Where arrays live: a mesh `data x fsdp x tensor`, and one table from paths to axes.

The table is read for parameters, EMA and optimizer state alike, since optax keeps its moments in
trees of the same names.
"""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.trees import map_named
from flexidit_jax.common.types import Array

#: first match wins; trailing axes of a leaf (stacked blocks carry one more, at the front)
RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"attention/qkv/kernel$", ("fsdp", "tensor")),
    (r"attention/proj/kernel$", ("tensor", "fsdp")),
    (r"mlp/fc1/kernel$", ("fsdp", "tensor")),
    (r"mlp/fc2/kernel$", ("tensor", "fsdp")),
    (r"modulation/kernel$", ("fsdp", "tensor")),
    (r"timestep/fc\d/kernel$", ("fsdp", None)),
    (r"conditioner/table$", (None, "fsdp")),
    (r"/embed/kernel$", ("fsdp",)),
    (r"deembed/kernel$", ("fsdp", None, None, None, None)),
)


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh over all devices.

    Args:
      data, fsdp, tensor: sizes of the axes; one of them may be -1 for "what is left".

    Raises:
      UserError: the sizes do not multiply to the number of devices.
    """
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    devices = jax.device_count()
    known = int(np.prod([size for size in sizes.values() if size != -1]))
    free = [name for name, size in sizes.items() if size == -1]
    text = " x ".join(f"{name}={size}" for name, size in sizes.items())
    if len(free) > 1 or known < 1 or devices % known or (not free and known != devices):
        raise UserError(f"mesh {text} does not fit {devices} device(s); the sizes must multiply to {devices}")
    if free:
        sizes[free[0]] = devices // known
    return jax.make_mesh(tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * 3)


def spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The axes of one leaf; an axis that does not divide its dimension is left whole."""
    for pattern, axes in RULES:
        if re.search(pattern, path) and len(axes) <= len(shape):
            sizes = shape[len(shape) - len(axes) :]
            kept = [a if a and size % mesh.shape[a] == 0 else None for a, size in zip(axes, sizes, strict=True)]
            return PartitionSpec(*[None] * (len(shape) - len(axes)), *kept)
    return PartitionSpec()


def shardings(tree: Any, mesh: Mesh) -> Any:
    """A NamedSharding for every leaf of a tree of arrays or shapes."""
    return map_named(lambda path, leaf: NamedSharding(mesh, spec(path, leaf.shape, mesh)), tree)


def placed(tree: Any, mesh: Mesh) -> Any:
    """`tree` with every leaf where the table says; over several processes, each holds the same values."""
    return jax.tree.map(_put, tree, shardings(tree, mesh))


def _put(leaf: Any, sharding: NamedSharding) -> Array:
    here = getattr(leaf, "is_fully_addressable", True)
    if sharding.is_fully_addressable or not here:  # one process, or an array that lies on all of them already
        return jax.device_put(leaf, sharding)
    whole = np.asarray(leaf)  # device_put would send every leaf around to compare it
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def shaped(tree: Any, mesh: Mesh) -> Any:
    """ShapeDtypeStructs carrying shardings: what a checkpoint is restored onto."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings(tree, mesh),
    )


def check_batch(batch: int, mesh: Mesh) -> None:
    """Refuses a batch that does not split evenly.

    Raises:
      UserError: it is not divisible by the devices along data and fsdp.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch < 1 or batch % parts:
        raise UserError(
            f"train.batch={batch} is not divisible by the {parts} device(s) along data x fsdp;"
            f" {max(batch // parts, 1) * parts} would do"
        )


def share(mesh: Mesh) -> tuple[int, int]:
    """Which part of every batch this process holds, and how many parts there are.

    Where the tensor axis spans processes, several of them hold the same part. On a TPU, whose meshes follow its wires,
    a process may hold rows that do not lie together; its part is then spread over them in order.

    Raises:
      UserError: processes hold parts of different sizes, or parts that overlap.
    """
    parts = {tuple(rows) for rows in _rows(mesh).values()}
    if len({len(rows) for rows in parts}) > 1 or len(set().union(*parts)) < sum(map(len, parts)):
        text, local = " x ".join(f"{name}={size}" for name, size in mesh.shape.items()), len(mesh.local_devices)
        raise UserError(
            f"mesh {text} gives processes of {local} device(s) rows of the batch that overlap in part;"
            f" a tensor axis that divides {local}, or that {local} divides, would do"
        )
    return sorted(parts).index(tuple(_rows(mesh)[jax.process_index()])), len(parts)


def _rows(mesh: Mesh) -> dict[int, list[int]]:
    """The places along data x fsdp of every process's devices."""
    places: dict[int, set[int]] = {}
    for place, along_tensor in enumerate(mesh.devices.reshape(-1, mesh.shape["tensor"])):
        for device in along_tensor:
            places.setdefault(device.process_index, set()).add(place)
    return {process: sorted(held) for process, held in places.items()}


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, Array]:
    """This process's part (see `share`) of a batch as global arrays, split over data and fsdp."""
    sharding = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    if sharding.is_fully_addressable:
        return {key: jax.device_put(value, sharding) for key, value in batch.items()}
    held, places = _rows(mesh)[jax.process_index()], mesh.shape["data"] * mesh.shape["fsdp"]

    def spread(value: np.ndarray) -> Array:
        size = len(value) // len(held)  # rows a place

        def rows(index: tuple[slice, ...]) -> np.ndarray:
            at = held.index((index[0].start or 0) // size) * size
            return value[at : at + size]

        return jax.make_array_from_callback((size * places, *value.shape[1:]), sharding, rows)

    return {key: spread(value) for key, value in batch.items()}
