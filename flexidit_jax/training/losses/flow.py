"""The loss of flow matching: MSE on the velocity (rectified flow, arXiv 2209.03003)."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.build import positive
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Array
from flexidit_jax.diffusion.flow import Process
from flexidit_jax.models.conditioning.condition import Condition
from flexidit_jax.training.losses.diffusion import Predict
from flexidit_jax.training.losses.draws import Draws


@dataclass(frozen=True)
class Loss(Draws):
    """`|output - velocity|^2`, the velocity being what the process says: noise - x0, or for a SiT x0 - noise.

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
        self, process: Process, predict: Predict, teacher: Predict, x0: Array, cond: Condition, t: Array, noise: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Evaluates records; arguments as in `losses.diffusion`.

        Returns:
          The loss of every record [B], and it again as the term `mse`.
        """
        output, _ = predict(process.add_noise(x0, noise, t), t, cond)
        mse = jnp.mean(jnp.square(output - process.velocity(x0, noise)), axis=tuple(range(1, x0.ndim)))
        return mse, {"mse": mse}

    def draw_times(self, process: Process, key: Array, n: int, low: float, high: float) -> Array:
        """[n] times between the shares `low` and `high` of noise, distributed as `times` says."""
        if self.times == "uniform":
            return super().draw_times(process, key, n, low, high)
        return process.time(process.shifted(self._logit_normal(process, key, n, low, high)))

    def _logit_normal(self, process: Process, key: Array, n: int, low: float, high: float) -> Array:
        """[n] shares of noise before the shift that are between `low` and `high` after it."""
        if (low, high) == (0.0, 1.0):
            normal = jax.random.normal(key, (n,))
        else:
            shares = process.unshifted(np.array([low, high]))
            with np.errstate(divide="ignore"):
                ends = (np.log(shares) - np.log1p(-shares) - self.mean) / self.std
            normal = jax.random.truncated_normal(key, *ends, (n,))
        return jax.nn.sigmoid(self.mean + self.std * normal)
