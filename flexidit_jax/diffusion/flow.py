"""The flow-matching process: straight lines from data to noise (rectified flow, arXiv 2209.03003).

    x_s = (1 - s) x_0 + s noise,  s = t / T in [0, 1]                    (1)
    output = dx/ds = noise - x_0, so x_0 = x_s - s output                (2)

A shift moves times towards the noise, for larger latents (arXiv 2403.03206, section 5.3.2):
s' = shift s / (1 + (shift - 1) s), when training and when sampling alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import jax
import numpy as np

from flexidit_jax.common.build import positive
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Array

#: steps of a chain: more is a slip, and would fill the memory with their levels
MOST = 10**6


@dataclass(frozen=True)
class Chain:
    """Noise levels, ascending; every array is [n] float64.

    Attributes:
      t: the times the network is told.
      s: share of noise; the last level's is where sampling begins.
      x0_from_output: by (2), -s where the output points to the noise.
    """

    t: np.ndarray
    s: np.ndarray
    x0_from_output: np.ndarray

    @cached_property
    def s_prev(self) -> np.ndarray:
        return np.append(0.0, self.s[:-1])

    @cached_property
    def x0_from_x(self) -> np.ndarray:
        return np.ones(len(self.s))


@dataclass(frozen=True)
class Process:
    """Flow matching; the network predicts the velocity.

    Attributes:
      steps: T, the unit of the time the network is told; times are real numbers in [0, T].
      shift: above 1 spends more of the steps on noisy levels.
      sign: 1 where the output points to the noise, -1 where it points to the data.
    """

    learns_variance: ClassVar[bool] = False
    ignores_variance: ClassVar[bool] = False
    sign: ClassVar[int] = 1
    steps: int = 1000
    shift: float = 1.0

    def __post_init__(self) -> None:
        positive("process", steps=self.steps, shift=self.shift)

    @property
    def times(self) -> tuple[int, int]:
        """See `diffusion.process`."""
        return 0, self.steps

    def time(self, s: Array) -> Array:
        """Shares of noise -> the times the network is told."""
        return self.steps * s

    def share(self, t: Array) -> Array:
        """The inverse of `time`."""
        return t / self.steps

    def velocity(self, x0: Array, noise: Array) -> Array:
        """What the network is to predict."""
        return self.sign * (noise - x0)

    def shifted(self, s: Array) -> Array:
        """Shares of noise before the shift -> after it."""
        return self.shift * s / (1 + (self.shift - 1) * s)

    def chain(self, n: int) -> Chain:
        """n levels evenly spaced (before the shift) from 1/n to 1; any n up to `MOST`.

        Raises:
          UserError: n is below 1, or above.
        """
        if n < 1:
            raise UserError(f"steps must be at least 1, got {n}")
        if n > MOST:
            raise UserError(f"steps must be at most {MOST}, got {n}")
        s = self.shifted(np.arange(1, n + 1) / n)
        return Chain(self.time(s), s, -self.sign * s)

    def unshifted(self, s: Array) -> Array:
        """The inverse of `shifted`."""
        return s / (self.shift - (self.shift - 1) * s)

    def draw_times(self, key: Array, n: int, low: float = 0.0, high: float = 1.0) -> Array:
        """[n] float32, shares of noise in [low, high], uniform before the shift."""
        low, high = self.unshifted(low), self.unshifted(high)
        return self.time(self.shifted(low + (high - low) * jax.random.uniform(key, (n,))))

    def add_noise(self, x0: Array, noise: Array, t: Array) -> Array:
        """x_t by (1): x0 and noise [B, ...], t [B]."""
        s = self.share(t).reshape((-1,) + (1,) * (x0.ndim - 1))
        return (1 - s) * x0 + s * noise
