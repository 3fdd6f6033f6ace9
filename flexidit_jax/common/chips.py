"""What chips can do: memory, peak rates, links."""

from __future__ import annotations

import re
from typing import Any, NamedTuple


class Chip(NamedTuple):
    """One chip of a kind.

    Attributes:
      hbm: GiB that programs may fill: what libtpu says it has when it refuses one.
      tflops: peak 10^12 bfloat16 operations a second.
      bandwidth: of the HBM, GB/s.
      links: GB/s that it sends to its neighbours, over all links together.
      axes: of the torus.
      most: chips of a slice.
      options: what the compiler is told beyond the shape.
    """

    hbm: float
    tflops: float
    bandwidth: float
    links: float
    axes: int
    most: int
    options: dict[str, Any]


#: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, "key specifications". The interconnect is published as Gbps of a
#: chip (1600, 4800) or as the sum of both directions (400 and 800 GB/s); that of v4 is six links of 50 GB/s, from
#: arXiv 2304.01433. v4 runs as jax runs it: the two cores of a chip as one device.
CHIPS = {
    "v4": Chip(30.75, 275, 1200, 300, 3, 4096, {"chip_config_name": "megacore"}),
    "v5e": Chip(15.75, 197, 819, 200, 2, 256, {}),
    "v5p": Chip(95.74, 459, 2765, 600, 3, 6144, {}),
    "v6e": Chip(31.25, 918, 1638, 400, 2, 256, {}),
}

#: what jax calls them
TPUS = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p", "TPU v6 lite": "v6e"}
#: dense bfloat16, 10^12 a second, from NVIDIA's data sheets; PCIe and NVL cards of the later ones are slower
GPUS = {r"NVIDIA A100.*": 312, r"NVIDIA H100 \d+GB HBM3": 989, r"NVIDIA H200": 989}


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Peak FLOP/s of a device, known for bfloat16 alone; None where it is not."""
    if dtype != "bfloat16":
        return None
    if device_kind in TPUS:
        return 1e12 * CHIPS[TPUS[device_kind]].tflops
    return next((1e12 * tflops for kinds, tflops in GPUS.items() if re.fullmatch(kinds, device_kind)), None)
