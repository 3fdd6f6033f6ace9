"""AdamW with optional clipping."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
import optax

from flexidit_jax.common.build import positive
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Array


@dataclass(frozen=True)
class AdamW:
    """DiT's optimizer by default: no weight decay, no clipping.

    Attributes:
      b1, b2: decay of the moments.
      weight_decay: decoupled from the gradient, times the learning rate.
      clip: global gradient norm; None leaves gradients alone.
    """

    b1: float = 0.9
    b2: float = 0.999
    weight_decay: float = 0.0
    clip: float | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.b1 < 1 and 0 <= self.b2 < 1):
            raise UserError(f"train.optimizer.b1 and b2 must lie in [0, 1), got {self.b1!r} and {self.b2!r}")
        if self.weight_decay < 0:
            raise UserError(f"train.optimizer.weight_decay must not be negative, got {self.weight_decay!r}")
        if self.clip is not None:
            positive("train.optimizer", clip=self.clip)

    def build(self, rate: optax.Schedule) -> optax.GradientTransformation:
        adamw = optax.adamw(rate, b1=self.b1, b2=self.b2, weight_decay=self.weight_decay)
        return adamw if self.clip is None else optax.chain(optax.clip_by_global_norm(self.clip), adamw)


@dataclass(frozen=True)
class Ema:
    """Moving average of the parameters, updated every step.

    Attributes:
      decay: the share of the average that an update keeps; 0.9999 for DiT.
      warmup: min(decay, (1 + n) / (10 + n)) for a leaf that was updated n times (`training.updates`).
    """

    decay: float = 0.9999
    warmup: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.decay < 1:
            raise UserError(f"train.ema.decay must lie in [0, 1), got {self.decay!r}")

    def rate(self, updates: Array) -> Array:
        """The share of the average that is kept by an update after so many."""
        return jnp.minimum(self.decay, (1 + updates) / (10 + updates)) if self.warmup else jnp.float32(self.decay)

    def left_of_start(self, updates: int) -> float:
        """The share of what it began with that the average still holds after so many updates."""
        if not self.warmup:
            return self.decay**updates
        done = np.arange(updates)
        return float(np.prod(np.minimum(self.decay, (1 + done) / (10 + done))))
