"""A network over any number of rows: batches of one shape, which is compiled once, over the devices of this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.arguments import shown
from flexidit_jax.common.data_parallel import copied, even, local_mesh, on_each, split
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Array, Params


class Batches:
    """Runs functions of (parameters, rows) in batches of one size.

    Args:
      params: of a network, copied to every device.
      batch: rows at once over all devices, rounded up to what these share evenly.
      devices: of this process, None for all.

    Raises:
      UserError: a batch below one, or more devices than there are.
    """

    def __init__(self, params: Params, batch: int, devices: int | None = None) -> None:
        build.positive("features", batch=batch)
        count = jax.local_device_count() if devices is None else devices
        self._mesh = local_mesh(count)
        self.size = even(batch, count)
        self._params = copied(params, self._mesh) if self._mesh else jax.device_put(params)

    def over(
        self, network: Callable[[Params, Array], Mapping[str, Array]], prepare: Callable[[Array], Array] = lambda x: x
    ) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
        """A function of rows [N, ...] -> arrays [N, ...] by name, for which the network sees `size` rows at a time.

        The last batch is filled up with zeros, of which nothing is returned.

        Args:
          network: of the parameters and of what `prepare` returned.
          prepare: of rows, to one shape whatever theirs is: a program by itself, so that the network is compiled once.
        """
        prepared = jax.jit(on_each(prepare, self._mesh, 0))
        program = jax.jit(on_each(network, self._mesh, 1))

        def run(rows: np.ndarray) -> dict[str, np.ndarray]:
            found, waiting = [], None
            for begin in range(0, len(rows), self.size):
                part = rows[begin : begin + self.size]
                padding = ((0, self.size - len(part)), *((0, 0),) * (rows.ndim - 1))
                sent = split(np.pad(part, padding), self._mesh)
                running = program(self._params, prepared(sent)), len(part)
                found += [_fetched(*waiting)] if waiting else []  # while the next batch runs
                waiting = running
            found.append(_fetched(*waiting))
            return {name: np.concatenate([part[name] for part in found]) for name in found[0]}

        return run


def _fetched(arrays: Mapping[str, Array], rows: int) -> dict[str, np.ndarray]:
    return {name: np.asarray(array)[:rows] for name, array in arrays.items()}


def check_images(images: Any) -> None:
    """Refuses what is no batch of colour images.

    Raises:
      UserError: another type or shape, greyscale, or no image at all.
    """
    if getattr(images, "dtype", None) != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        grey = getattr(images, "ndim", 0) == 4 and images.shape[-1] == 1
        cure = "; repeat the channel of greyscale ones: np.repeat(images, 3, axis=-1)" if grey else ""
        raise UserError(f"images must be uint8 [B, H, W, 3], got {shown(images)}{cure}")
