"""What every loss draws: times and noise, for a whole batch at once."""

from __future__ import annotations

from typing import ClassVar

import jax

from flexidit_jax.common.types import Array
from flexidit_jax.diffusion.process import NoiseProcess


class Draws:
    """Base of the losses: uniform times, normal noise.

    Attributes:
      asks_teacher: whether the loss evaluates the network at the pre-trained mode too.
    """

    asks_teacher: ClassVar[bool] = False

    def draw(
        self,
        process: NoiseProcess,
        key: Array,
        shape: tuple[int, ...],
        within: tuple[float, float] = (0.0, 1.0),
    ) -> tuple[Array, Array]:
        """Draws for a batch.

        Args:
          process: noise process.
          key: randomness of this step.
          shape: of the latents, [B, F, H, W, C].
          within: shares of the way from data to noise between which t is drawn.

        Returns:
          t [B], and noise of `shape`.
        """
        time_key, noise_key = jax.random.split(key)
        return self.draw_times(process, time_key, shape[0], *within), jax.random.normal(noise_key, shape)

    def draw_times(self, process: NoiseProcess, key: Array, n: int, low: float, high: float) -> Array:
        """[n] times between the shares `low` and `high` of the way to noise."""
        return process.draw_times(key, n, low, high)
