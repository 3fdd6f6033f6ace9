"""Where arrays live: a mesh `data x fsdp x tensor`, and one table from paths to axes.

The table is read for parameters, EMA and optimizer state alike, since optax keeps its moments in
trees of the same names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental.mesh_utils import create_device_mesh
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flexidit_jax.common.axes import MESH_AXES
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.placement import put
from flexidit_jax.common.trees import map_named
from flexidit_jax.common.types import Array, short_patch_name
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.patch import tokens
from flexidit_jax.training.stages import Stage

#: first match wins; trailing axes of a leaf (stacked blocks carry one more, at the front). What is not named is small
#: (norms, biases, embeddings of a patch size) and lies whole on every device.
RULES: tuple[tuple[str, tuple[str | tuple[str, ...] | None, ...]], ...] = (
    (r"attention/(qkv|[qkv])/kernel$", ("fsdp", "tensor")),
    (r"attention/proj/kernel$", ("tensor", "fsdp")),
    (r"(mlp|conditioner)/fc1/kernel$", ("fsdp", "tensor")),
    (r"(mlp|conditioner)/fc2/kernel$", ("tensor", "fsdp")),
    (r"(attention/qkv|mlp/fc1)/lora_a$", ("fsdp", None)),
    (r"(attention/qkv|mlp/fc1)/lora_b$", (None, ("tensor", "fsdp"))),  # a rank divides by few devices
    (r"(attention/proj|mlp/fc2)/lora_a$", (("tensor", "fsdp"), None)),
    (r"(attention/proj|mlp/fc2)/lora_b$", (None, "fsdp")),
    (r"(modulation|projection/blocks)/kernel$", ("fsdp", "tensor")),
    (r"(timestep|_embedding)/fc\d/kernel$", ("fsdp", None)),
    (r"conditioner/(table|null)$", (None, "fsdp")),
    (r"/embed/kernel$", ("fsdp",)),
    (r"deembed/kernel$", ("fsdp", None, None, None, None)),
)


def make_mesh(data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh over all devices.

    Args:
      data, fsdp, tensor: sizes of the axes; one of them may be -1 for "what is left".

    Raises:
      UserError: the sizes do not multiply to the number of devices; the axis that would do is named.
    """
    return mesh_over(jax.devices(), data, fsdp, tensor)


def mesh_over(devices: Sequence[Any], data: int = -1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """`make_mesh` over these devices, such as those of a TPU slice that is not there."""
    sizes = {"data": data, "fsdp": fsdp, "tensor": tensor}
    count = len(devices)
    known = math.prod(size for size in sizes.values() if size != -1)
    free = [name for name, size in sizes.items() if size == -1]
    text = " x ".join(f"{name}={size}" for name, size in sizes.items())
    if len(free) > 1 or known < 1 or count % known or (not free and known != count):
        raise UserError(f"mesh {text} does not fit {count} device(s); {_would_do(sizes, count)}")
    if free:
        sizes[free[0]] = count // known
    shape, names, types = tuple(sizes.values()), tuple(sizes), (AxisType.Auto,) * 3
    try:
        return jax.make_mesh(shape, names, axis_types=types, devices=devices)
    except NotImplementedError:  # no axes of the torus make up an axis of the mesh: part of one has to
        return Mesh(create_device_mesh(shape, devices, allow_split_physical_axes=True), names, axis_types=types)


def _would_do(sizes: dict[str, int], count: int) -> str:
    """The one axis whose change makes a mesh fit, if there is one."""
    free = [name for name, size in sizes.items() if size == -1]
    for name, size in sizes.items():
        others = math.prod(other for key, other in sizes.items() if key != name and other != -1)
        if others > 0 and count % others == 0 and (not free or (len(free) == 1 and name not in free)):
            return f"{name}={math.gcd(count // others, size) if free else count // others} would do"
    return f"the sizes must multiply to {count}"


def check_axes(model: DiT, stages: Iterable[Stage], mesh: Mesh) -> None:
    """Refuses a mesh along an axis of which kernels, or what attention computes, would lie whole on every device.

    Args:
      model, stages: what is trained.
      mesh: what it is to be trained on.

    Raises:
      UserError: fsdp does not divide the width, or tensor neither divides the heads nor finds as many tokens; what
        would do is named.
    """
    width, heads, fsdp, tensor = model.width, model.num_heads, mesh.shape["fsdp"], mesh.shape["tensor"]
    if width % fsdp:
        why = f"does not divide the model's width {width}, so it would split no kernel"
        raise UserError(f"mesh fsdp={fsdp} {why}; {_would_split('fsdp', width, mesh)}")
    few, patch = min((tokens(model.latent, patch), patch) for stage in stages for patch in stage.patches)
    if heads % tensor and tensor > few:
        name = short_patch_name(patch)
        why = f"does not divide the model's {heads} attention heads, nor split the {few} tokens of patch {name}"
        raise UserError(f"mesh tensor={tensor} {why}; {_would_split('tensor', heads, mesh)}")


def _would_split(axis: str, count: int, mesh: Mesh) -> str:
    """The largest part of an axis that divides a count."""
    fitting, other = math.gcd(count, mesh.shape[axis]), mesh.shape["tensor" if axis == "fsdp" else "fsdp"]
    return f"{axis}={fitting} would, with data={mesh.size // fitting // other}"


def spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """The axes of one leaf; an axis that does not divide its dimension is left whole."""
    for pattern, axes in RULES:
        if re.search(pattern, path) and len(axes) <= len(shape):
            sizes = shape[len(shape) - len(axes) :]
            kept = [_dividing(a, size, mesh) for a, size in zip(axes, sizes, strict=True)]
            return PartitionSpec(*[None] * (len(shape) - len(axes)), *kept)
    return PartitionSpec()


def _dividing(axes: str | tuple[str, ...] | None, size: int, mesh: Mesh) -> str | tuple[str, ...] | None:
    """The axes, or of several the largest, or none: the first that divides `size`."""
    several = (axes,) if isinstance(axes, str) else axes or ()
    for choice in (several, *((axis,) for axis in sorted(several, key=lambda axis: -mesh.shape[axis]))):
        if choice and size % math.prod(mesh.shape[axis] for axis in choice) == 0:
            return choice if len(choice) > 1 else choice[0]
    return None


def shardings(tree: Any, mesh: Mesh) -> Any:
    """A NamedSharding for every leaf of a tree of arrays or shapes."""
    return map_named(lambda path, leaf: NamedSharding(mesh, spec(path, leaf.shape, mesh)), tree)


def placed(tree: Any, mesh: Mesh) -> Any:
    """`tree` with every leaf where the table says; over several processes, each holds the same values."""
    return jax.tree.map(put, tree, shardings(tree, mesh))


def made(make: Callable[..., Any], mesh: Mesh, *trees: Any) -> Any:
    """`make(*trees)` as one program, with every leaf of the result where the table says: none of it is ever whole."""
    return jax.jit(make, out_shardings=shardings(jax.eval_shape(make, *trees), mesh))(*trees)


def shaped(tree: Any, mesh: Mesh) -> Any:
    """ShapeDtypeStructs carrying shardings: what a checkpoint is restored onto."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        tree,
        shardings(tree, mesh),
    )


def constrained(tree: Any, mesh: Mesh | None) -> Any:
    """`placed` for use inside a jitted function; without a mesh, `tree` as it is."""
    return tree if mesh is None else jax.lax.with_sharding_constraint(tree, shardings(tree, mesh))


def check_batch(batch: int, mesh: Mesh, accumulate: int = 1) -> None:
    """Refuses a batch that does not split evenly.

    Raises:
      UserError: it is not divisible by the devices along data and fsdp, or a device's share of it by `accumulate`.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch < 1 or batch % parts:
        raise UserError(
            f"train.batch={batch} is not divisible by the {parts} device(s) along data x fsdp;"
            f" {max(batch // (parts * accumulate), 1) * parts * accumulate} would do"
        )
    share = batch // parts
    if share % accumulate:
        fits = max(k for k in range(1, accumulate) if share % k == 0)
        raise UserError(
            f"train.batch={batch} gives each of the {parts} device(s) along data x fsdp {share} record(s), which do not"
            f" split into train.accumulate={accumulate} parts; train.accumulate={fits} would do, or"
            f" train.batch={max(share // accumulate, 1) * accumulate * parts}"
        )


def share(mesh: Mesh) -> tuple[int, int]:
    """Which part of every batch this process holds, and how many parts there are.

    Where the tensor axis spans processes, several of them hold the same part. On a TPU, whose meshes follow its wires,
    a process may hold rows that do not lie together; its part is then dealt out to them in order.

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
    sharding = NamedSharding(mesh, PartitionSpec(MESH_AXES["records"]))
    if sharding.is_fully_addressable:
        return {key: jax.device_put(value, sharding) for key, value in batch.items()}
    held, places = _rows(mesh)[jax.process_index()], mesh.shape["data"] * mesh.shape["fsdp"]

    def laid_out(value: np.ndarray) -> Array:
        size = len(value) // len(held)  # rows a place

        def rows(index: tuple[slice, ...]) -> np.ndarray:
            at = held.index((index[0].start or 0) // size) * size
            return value[at : at + size]

        return jax.make_array_from_callback((size * places, *value.shape[1:]), sharding, rows)

    return {key: laid_out(value) for key, value in batch.items()}
