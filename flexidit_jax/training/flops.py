"""FLOPs of training, from those of a forward pass (`models.flops`)."""

from __future__ import annotations

from flexidit_jax.common.types import Patch
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flops import forward_flops
from flexidit_jax.training.stages import Stage


def training_flops(model: DiT, stage: Stage, patch: Patch) -> float:
    """Model FLOPs of one record in one training step at a mode; nothing recomputed, no optimizer.

    A trained forward pass counts three times: itself, and its gradient by activations and by weights. Where
    adapters train, frozen kernels need no gradient by weights. A teacher adds its forward pass.
    """
    forward = forward_flops(model, patch)
    if stage.adapters is None:
        trained = 3.0 * forward
    else:
        trained = 2.0 * forward + 3.0 * (forward_flops(model, patch, stage.adapters) - forward)
    return trained + (forward_flops(model, model.base_patch) if stage.loss.asks_teacher else 0.0)


def recomputed_flops(model: DiT, patch: Patch) -> float:
    """FLOPs that remat adds for one record: a second forward pass where only block inputs are kept, else none.

    `dots` keeps every matrix product and recomputes what lies between them, which is not counted as FLOPs here.
    """
    return float(forward_flops(model, patch)) if model.remat == "full" else 0.0
