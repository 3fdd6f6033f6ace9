"""What chips can do: memory, peak rates, links."""

from __future__ import annotations

import re
from typing import NamedTuple


class Chip(NamedTuple):
    """One chip of a kind.

    Attributes:
      hbm: GiB that programs may fill: what libtpu says it has when it refuses one, what a GPU's driver says it has.
      tflops: peak 10^12 dense bfloat16 operations a second.
      bandwidth: of the HBM, GB/s.
      links: GB/s that it sends to its neighbours, over all links together.
    """

    hbm: float
    tflops: float
    bandwidth: float
    links: float


#: docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, "key specifications". The interconnect is published as Gbps of a
#: chip (1600, 4800) or as the sum of both directions (400 and 800 GB/s); that of v4 is six links of 50 GB/s, from
#: arXiv 2304.01433. v4 runs as jax runs it: the two cores of a chip as one device.
TPUS = {
    "v4": Chip(30.75, 275, 1200, 300),
    "v5e": Chip(15.75, 197, 819, 200),
    "v5p": Chip(95.74, 459, 2765, 600),
    "v6e": Chip(31.25, 918, 1638, 400),
}
#: NVIDIA's data sheets of the SXM boards of A100 80GB, H100 and H200: "BFLOAT16 Tensor Core" without sparsity, "GPU
#: memory bandwidth", half of NVLink's rate, which counts both directions. `programs/gpus/` says whence the memory.
GPUS = {
    "a100": Chip(79.26, 312, 2039, 300),
    "h100": Chip(79.14, 989, 3352, 450),
    "h200": Chip(139.81, 989, 4800, 450),
}

#: what jax calls them; a PCIe or NVL card of the later ones is slower, and an A100 of 40 GB multiplies as fast
NAMES = {
    r"TPU v4": "v4",
    r"TPU v5 lite|TPU v5e": "v5e",
    r"TPU v5p?": "v5p",
    r"TPU v6 lite": "v6e",
    r"NVIDIA A100.*": "a100",
    r"NVIDIA H100 \d+GB HBM3": "h100",
    r"NVIDIA H200": "h200",
}


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Peak FLOP/s of a device, known for bfloat16 alone; None where it is not."""
    if dtype != "bfloat16":
        return None
    chips = TPUS | GPUS
    return next((1e12 * chips[kind].tflops for names, kind in NAMES.items() if re.fullmatch(names, device_kind)), None)
