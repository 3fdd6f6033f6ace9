"""What XLA is told with the steps of sampling and training, beside what it does by itself, by no environment variable.

On a GPU products go to cuBLAS, not to kernels of XLA's own: in bfloat16 cuBLAS's add the bias and take the GELU of it
as they write the product (benchmarks of launches: `--mode=compile --topology=gpu:h100`). And products of one tensor
with several kernels stay several: joined, the kernels are copied together in every call.
"""

from __future__ import annotations

OPTIONS: dict[str, dict[str, bool | int]] = {
    "gpu": {"xla_gpu_enable_triton_gemm": False, "xla_gpu_dot_merger_threshold_mb": 0}
}


def compiler_options(platform: str) -> dict[str, bool | int]:
    """For `jax.jit`.

    Args:
      platform: "cpu", "gpu" or "tpu", as of `common.axes.platform`.
    """
    return OPTIONS.get(platform, {})
