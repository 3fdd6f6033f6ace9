"""The rate at which utilisation is one."""

from __future__ import annotations

import re

from flexidit_jax.jobs.parts.topology import CHIPS

#: what jax calls the chips of `topology.CHIPS`
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
