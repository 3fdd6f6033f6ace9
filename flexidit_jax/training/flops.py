"""FLOPs of training, from those of a forward pass (`models.flops`)."""

from __future__ import annotations

from flexidit_jax.common.types import Patch
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flops import forward_flops, text_macs, text_tokens
from flexidit_jax.models.patch import tokens
from flexidit_jax.training.stages import Stage


def training_flops(model: DiT, stage: Stage, patch: Patch) -> int:
    """Model FLOPs of one record in one training step at a mode; nothing recomputed, no optimizer.

    The backward pass costs two forward passes: every product has a gradient by each of its factors. Where adapters
    train, the frozen kernels of the blocks want none, and nothing goes back through a text's own layers. A teacher adds
    its forward pass.
    """
    total = 3 * forward_flops(model, patch, stage.adapters or 0)
    if stage.adapters is not None:
        n, m = tokens(model.latent, patch), text_tokens(model)
        d, text = model.width, 2 * (n + m) if m else 0
        kernels = model.depth * (4 * n * d + 2 * n * model.hidden + text * d)  # qkv and proj, MLP, text
        kernels += 6 * d * (1 if model.modulation == "single" else model.depth)  # adaLN
        total -= 2 * kernels * d + 2 * 2 * text_macs(model)
    return total + (forward_flops(model, model.base_patch) if stage.loss.asks_teacher else 0)


def recomputed_flops(model: DiT, patch: Patch) -> float:
    """FLOPs that remat adds for one record.

    "full" runs a second forward pass; "dots" computes attention's two products again (2 N (N + M) d MACs a block). What
    lies between products is not counted.
    """
    n = tokens(model.latent, patch)
    attention = 2 * model.depth * 2 * n * (n + text_tokens(model)) * model.width
    again = {"none": 0, "dots": attention, "full": forward_flops(model, patch)}
    return float(again[model.remat])
