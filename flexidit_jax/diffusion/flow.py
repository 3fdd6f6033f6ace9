"""The flow-matching process: straight lines from data to noise (rectified flow, arXiv 2209.03003).

    x_s = (1 - s) x_0 + s noise,  s = t / T in [0, 1]                    (1)
    output = dx/ds = noise - x_0, so x_0 = x_s - s output                (2)

A shift moves times towards the noise, for larger latents (arXiv 2403.03206, section 5.3.2):
s' = shift s / (1 + (shift - 1) s), when training and when sampling alike.

Which n levels a chain has, a grid says by name, each before the shift:

    even             n/n, ..., 1/n, and real times
    diffusers        n of n + 1 even ones from 1 to 1/T, the first just below 1; times rounded down (UniPC since 0.36)
    wan              n of n + 1 even ones from 1 - 1/T to 0; times rounded down (Wan 2.1, DPM-Solver++ of diffusers)
    diffusers_euler  from 1 to what 1/T is after the shift, which all are given once more (Euler of diffusers)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import jax
import numpy as np

from flexidit_jax.common.build import positive
from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.common.types import Array

#: steps of a chain: more is a slip, and would fill the memory with their levels
MOST = 10**6
GRIDS = ("even", "diffusers", "wan", "diffusers_euler")


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

    @property
    def sigma(self) -> np.ndarray:
        """Of the noise in x."""
        return self.s

    @property
    def signal(self) -> np.ndarray:
        """Of x_0 in x."""
        return 1 - self.s

    @property
    def sigma_prev(self) -> np.ndarray:
        """`sigma` of the next lower level; 0 of none."""
        return self.s_prev

    @property
    def signal_prev(self) -> np.ndarray:
        """`signal` of the next lower level; 1 of none."""
        return 1 - self.s_prev

    @property
    def half_log_snr(self) -> np.ndarray:
        """log(signal / sigma); infinite where there is no signal."""
        with np.errstate(divide="ignore"):
            return np.log(self.signal) - np.log(self.sigma)

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

    def chain(self, n: int, grid: str = "even") -> Chain:
        """n levels of a grid (see the head of this file), any n up to `MOST`.

        Raises:
          UserError: n is below 1, or above, or there is no such grid.
        """
        if grid not in GRIDS:
            raise UserError(f"no solver.grid {grid!r}{nearest(str(grid), GRIDS)}")
        if n < 1:
            raise UserError(f"steps must be at least 1, got {n}")
        if n > MOST:
            raise UserError(f"steps must be at most {MOST}, got {n}")
        s = self.shifted(self._unshifted_levels(n, grid)[::-1])
        if grid == "diffusers":
            s = np.minimum(s, float(np.float32(1 - 1e-6)))  # as float32 has it: of 1 - s, 1.3 % more
        t = self.time(s)
        return Chain(np.floor(t) if grid in ("diffusers", "wan") else t, s, -self.sign * s)

    def _unshifted_levels(self, n: int, grid: str) -> np.ndarray:
        """Those of a grid before the shift, descending."""
        if grid == "even":
            return np.arange(n, 0, -1) / n
        least = 1 / self.steps
        if grid == "diffusers_euler":
            return np.linspace(1, self.shifted(least), n)
        first, last = (1, least) if grid == "diffusers" else (1 - least, 0)
        return np.linspace(first, last, n + 1)[:-1]

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
