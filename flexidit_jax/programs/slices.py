"""Devices of a TPU slice that is not there.

libtpu compiles for any slice on any machine with its library alone. The library is told here, before it is
loaded, that there is no TPU to ask about itself.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

import jax

from flexidit_jax.common.chips import TPUS, Chip
from flexidit_jax.common.errors import UserError, nearest


class Torus(NamedTuple):
    """How the chips of a kind are joined.

    Attributes:
      axes: of the torus.
      most: chips of a slice.
      options: what the compiler is told beyond the shape.
    """

    axes: int
    most: int
    options: dict[str, Any]


TORI = {
    "v4": Torus(3, 4096, {"chip_config_name": "megacore"}),
    "v5e": Torus(2, 256, {}),
    "v5p": Torus(3, 6144, {}),
    "v6e": Torus(2, 256, {}),
}
#: shapes that Google names, for messages; others with the right axes are tried
SHAPES = {
    2: ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    3: ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16"),
}


class Slice(NamedTuple):
    """Where programs are compiled for.

    Attributes:
      name: such as `v5e:16x16` or `gpu:h100`, or the kind and number of the devices at hand.
      devices: to compile for; one a chip.
      chip: None where its figures are not known.
      hbm: bytes of memory a device has; None where that says little (a CPU).
    """

    name: str
    devices: Sequence[Any]
    chip: Chip | None
    hbm: float | None


def tpu_slice(name: str) -> Slice:
    """The devices of `v5e:16x16`, a kind of chip and the shape of the slice.

    Raises:
      UserError: no such slice, or libtpu is not installed.
    """
    kind, _, shape = name.partition(":")
    torus = TORI.get(kind)
    sides = [int(side) for side in shape.split("x")] if re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape) else []
    if torus is None or len(sides) != torus.axes or prod(sides) > torus.most:
        raise UserError(f"no TPU slice {name!r}{_near(name)}")
    try:
        return Slice(name, _devices(name, torus, shape), TPUS[kind], TPUS[kind].hbm * 2**30)
    except RuntimeError as error:
        if "not installed" in str(error):
            raise UserError(
                '--topology needs the TPU compiler, which is not installed: pip install -e ".[tpu]"'
            ) from None
        if "INVALID_ARGUMENT" in str(error):  # not of whole hosts
            raise UserError(f"no TPU slice {name!r}{_near(name)}") from None
        raise UserError(f"the TPU compiler does not start ({error})") from None


def devices_here() -> Slice:
    """The devices of this machine."""
    devices = jax.devices()
    kind = devices[0].device_kind.replace(" ", "-")
    limit = (devices[0].memory_stats() or {}).get("bytes_limit")
    return Slice(f"{kind}:{len(devices)}", devices, None, limit)


def examples() -> list[str]:
    """A slice of each kind of chip."""
    return [f"{kind}:{SHAPES[torus.axes][-3]}" for kind, torus in TORI.items()]


def _near(name: str) -> str:
    """What comes near, among the shapes of that kind of chip, or of each kind one."""
    kind = name.partition(":")[0]
    shapes = SHAPES[TORI[kind].axes] if kind in TORI else ()
    return nearest(name, [f"{kind}:{shape}" for shape in shapes] or examples(), most=3)


def _devices(name: str, torus: Torus, shape: str) -> Sequence[Any]:
    from jax.experimental import topologies

    for key, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any; it is asked for and not used
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # several may compile at once: nobody takes a TPU
    }.items():
        os.environ.setdefault(key, value)
    jax.config.update("jax_platforms", "cpu")  # what runs here runs on the CPU, and no TPU is taken
    options = dict(torus.options)
    if shape == "1x1":
        options["chips_per_host_bounds"] = [1, 1, 1]
    return topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
