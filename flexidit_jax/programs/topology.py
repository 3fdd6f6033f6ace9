"""What `--topology` names: the devices of a machine that is not there, TPU or GPU."""

from __future__ import annotations

from flexidit_jax.common.errors import UserError, closest, nearest
from flexidit_jax.programs import gpu_target, slices
from flexidit_jax.programs.slices import Slice


def described(name: str) -> Slice:
    """The devices of `v5e:16x16` or of `gpu:h100x8`.

    Raises:
      UserError: no such chips, or what compiles for them is not installed.
    """
    kind = name.partition(":")[0]
    if kind == "gpu":
        return gpu_target.gpus(name)
    if kind in slices.TORI:
        return slices.tpu_slice(name)
    known = slices.examples() + gpu_target.examples()
    near = nearest(name, known) if closest(name, known) else f"; known: {', '.join(known)} and other shapes"
    raise UserError(f"no TPU slice and no GPU {name!r}{near}")
