"""The rate at which utilisation is one."""

from __future__ import annotations

from flexidit_jax.jobs.parts.topology import CHIPS

#: what jax calls the chips of `topology.CHIPS`
TPUS = {"TPU v4": "v4", "TPU v5 lite": "v5e", "TPU v5e": "v5e", "TPU v5": "v5p", "TPU v5p": "v5p", "TPU v6 lite": "v6e"}
#: dense bfloat16, 10^12 a second: NVIDIA's data sheets of the SXM modules
GPUS = {"A100": 312, "H100": 989, "H200": 989}


def peak_flops(device_kind: str, dtype: str) -> float | None:
    """Peak FLOP/s of a device, known for bfloat16 alone; None where it is not."""
    if dtype != "bfloat16":
        return None
    if device_kind in TPUS:
        return 1e12 * CHIPS[TPUS[device_kind]].tflops
    return next((1e12 * tflops for name, tflops in GPUS.items() if name in device_kind), None)
