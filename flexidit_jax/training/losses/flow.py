"""The loss of flow matching: MSE on the velocity (rectified flow, arXiv 2209.03003)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from flexidit_jax.common.build import positive
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Array
from flexidit_jax.diffusion.flow import Process
from flexidit_jax.training.losses.diffusion import Predict


@dataclass(frozen=True)
class Loss:
    """`|output - (noise - x0)|^2`.

    Attributes:
      times: "uniform", or "logit_normal" (arXiv 2403.03206, section 3.1), which favours the middle; both before
        the shift of the process.
      mean, std: of the normal whose sigmoid is the share of noise; "logit_normal" only.
    """

    times: str = "uniform"
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.times not in ("uniform", "logit_normal"):
            raise UserError(f"loss.times must be one of uniform, logit_normal, got {self.times!r}")
        positive("loss", std=self.std)

    def __call__(
        self, process: Process, predict: Predict, teacher: Predict, x0: Array, cond: Any, key: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Draws t and noise from `key`; arguments as in `losses.diffusion`.

        Returns:
          The mean loss, and it again as the term `mse`.
        """
        time_key, noise_key = jax.random.split(key)
        if self.times == "uniform":
            t = process.draw_times(time_key, x0.shape[0])
        else:
            share = jax.nn.sigmoid(self.mean + self.std * jax.random.normal(time_key, (x0.shape[0],)))
            t = process.steps * process.shifted(share)
        noise = jax.random.normal(noise_key, x0.shape)
        output, _ = predict(process.add_noise(x0, noise, t), t, cond)
        mse = jnp.mean(jnp.square(output - (noise - x0)))
        return mse, {"mse": mse}
