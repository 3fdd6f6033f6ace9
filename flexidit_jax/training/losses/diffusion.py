"""The loss DiT was trained with: MSE on eps plus the variational bound of the learned variance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from flexidit_jax.common.types import Array, Prediction
from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.diffusion.likelihood import variational_bound
from flexidit_jax.models.conditioning.condition import Condition
from flexidit_jax.training.losses.draws import Draws

Predict = Callable[[Array, Array, Condition], Prediction]


def terms(process: Process, predict: Predict, x0: Array, noise: Array, t: Array, cond: Condition) -> dict[str, Array]:
    """The two terms of every sample, [B] each: `mse` and, with a learned variance, `vlb` in bits.

    The bound trains the variance only: the mean is taken as a constant (improved DDPM, section 3.1).
    """
    xt = process.add_noise(x0, noise, t)
    output, variance = predict(xt, t, cond)
    parts = {"mse": jnp.mean(jnp.square(output - noise), axis=tuple(range(1, x0.ndim)))}
    if variance is not None:
        parts["vlb"] = variational_bound(process, x0, xt, t, jax.lax.stop_gradient(output), variance)
    return parts


@dataclass(frozen=True)
class Loss(Draws):
    """MSE + vlb_weight x VLB at uniformly drawn times.

    Attributes:
      vlb_weight: weight of the bound.
    """

    vlb_weight: float = 1.0

    def __call__(
        self, process: Process, predict: Predict, teacher: Predict, x0: Array, cond: Condition, t: Array, noise: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Evaluates records, a batch or a part of one.

        Args:
          process: noise process.
          predict: the network at the mode of this step.
          teacher: the network at the pre-trained mode; not asked here.
          x0: [B, F, H, W, C] latents.
          cond: [B, ...].
          t, noise: of these records, from `draw`.

        Returns:
          The loss of every record [B], and each of its terms [B].
        """
        parts = terms(process, predict, x0, noise, t, cond)
        return parts["mse"] + self.vlb_weight * parts.get("vlb", 0.0), parts
