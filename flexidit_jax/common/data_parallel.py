"""One batch over several devices of this process: each runs, on its own images, the program of a single device.

        batch [B, ...] ──split──▶ device 0: [B / n, ...] ──step──▶ ... ──▶ x_0
                                  device 1: [B / n, ...] ──step──▶ ... ──▶ x_0     weights on every device
                                  ...                                              nothing is exchanged

The program is mapped, not partitioned: guidance that doubles a batch and packing that lets images share
a row stay within a device, and an image has the bits it has on one device at a batch of B / n, where the steps of
both batches read tables of modulations or none do (`sampling.tables`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from flexidit_jax.common.errors import UserError

AXIS = "data"


def even(batch: int, devices: int) -> int:
    """The least batch, of `batch` samples or more, that splits evenly."""
    return -(-batch // devices) * devices


def local_mesh(devices: int) -> Mesh | None:
    """A mesh over the first `devices` of this process; None for one, where nothing is split.

    Raises:
      UserError: there are not so many.
    """
    if not 1 <= devices <= jax.local_device_count():
        raise UserError(f"devices must lie in 1..{jax.local_device_count()}, the devices here, got {devices}")
    if devices == 1:
        return None
    return Mesh(np.asarray(jax.local_devices()[:devices]), (AXIS,), axis_types=(AxisType.Auto,))


def split(tree: Any, mesh: Mesh | None) -> Any:
    """A tree of arrays [B, ...], each device holding its part of every batch."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec(AXIS)))


def copied(tree: Any, mesh: Mesh | None) -> Any:
    """A tree of arrays, whole on every device."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def on_each(function: Callable[..., Any], mesh: Mesh | None, whole: int) -> Callable[..., Any]:
    """`function` run by every device on its part; what it returns lies as its batches do.

    Args:
      function: of `whole` arguments that all devices read alike, then of batches.
    """
    if mesh is None:
        return function

    def run(*args: Any) -> Any:
        specs = tuple(PartitionSpec() if i < whole else PartitionSpec(AXIS) for i in range(len(args)))
        mapped = jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(AXIS), check_vma=False)
        return mapped(*args)

    return run
