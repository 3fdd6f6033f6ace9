"""The Gaussian diffusion process of DDPM with a linear beta schedule, its tables in float64.

    q(x_t | x_0) = N(sqrt(alpha_bar_t) x_0, (1 - alpha_bar_t) I)                               (1)
    q(x_s | x_t, x_0) = N(coef_x0 x_0 + coef_x x_t, beta~ I), s the step before t                (2)
    x_0 = x_t / sqrt(alpha_bar_t) - sqrt(1 / alpha_bar_t - 1) eps                                (3)

Respacing keeps some of the T times and recomputes the betas from their alpha-bars. Which ones, a grid says by name:

    dit        n of them from 0 to T - 1, then clean data: 999, 946, ..., 53, 0 of 20
    diffusers  the n upper ones of n + 1 from 0 to T - 1, then clean data: 999, 949, ..., 100, 50
    pixart     the same not rounded, and they end at time 0, whose noise stays: 999, 949.05, ..., 99.9, 49.95
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.build import positive
from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.common.types import Array

GRIDS = ("dit", "diffusers", "pixart")


@dataclass(frozen=True)
class Chain:
    """A (possibly respaced) chain of noise levels, ascending; every array is [n] float64.

    Attributes:
      t: the original times the network is told, whole numbers or real ones.
      alpha_bar: alpha-bar at each kept time; betas are recomputed from these.
      end: alpha-bar where the last step ends; 1 is clean data.
    """

    t: np.ndarray
    alpha_bar: np.ndarray
    end: float = 1.0

    @cached_property
    def alpha_bar_prev(self) -> np.ndarray:
        return np.append(self.end, self.alpha_bar[:-1])

    @cached_property
    def signal(self) -> np.ndarray:
        """The share of x_0 in x_t, alpha."""
        return np.sqrt(self.alpha_bar)

    @cached_property
    def sigma(self) -> np.ndarray:
        """The share of noise in x_t."""
        return np.sqrt(1 - self.alpha_bar)

    @cached_property
    def signal_prev(self) -> np.ndarray:
        return np.sqrt(self.alpha_bar_prev)

    @cached_property
    def sigma_prev(self) -> np.ndarray:
        return np.sqrt(1 - self.alpha_bar_prev)

    @cached_property
    def half_log_snr(self) -> np.ndarray:
        """lambda = log(alpha / sigma), the variable in which the ODE's solvers take their steps."""
        return np.log(self.signal / self.sigma)

    @cached_property
    def beta(self) -> np.ndarray:
        return 1 - self.alpha_bar / self.alpha_bar_prev

    @cached_property
    def log_beta(self) -> np.ndarray:
        """The upper end of the learned log variance."""
        return np.log(self.beta)

    @cached_property
    def log_posterior_variance(self) -> np.ndarray:
        """log beta~, the lower end; beta~ is 0 at the first time, which copies the second."""
        variance = self.beta * (1 - self.alpha_bar_prev) / (1 - self.alpha_bar)
        variance[0] = variance[1] if len(variance) > 1 else self.beta[0]
        return np.log(variance)

    @cached_property
    def coef_x0(self) -> np.ndarray:
        """The weight of x_0 in the posterior mean (2)."""
        return self.beta * np.sqrt(self.alpha_bar_prev) / (1 - self.alpha_bar)

    @cached_property
    def coef_x(self) -> np.ndarray:
        """The weight of x_t in the posterior mean (2)."""
        return (1 - self.alpha_bar_prev) * np.sqrt(1 - self.beta) / (1 - self.alpha_bar)

    @cached_property
    def x0_from_x(self) -> np.ndarray:
        """x_0 = x0_from_x * x_t + x0_from_output * eps (3)."""
        return np.sqrt(1 / self.alpha_bar)

    @cached_property
    def x0_from_output(self) -> np.ndarray:
        return -np.sqrt(1 / self.alpha_bar - 1)


@dataclass(frozen=True)
class Process:
    """Gaussian diffusion whose network predicts eps.

    Attributes:
      steps: T, the number of noise levels.
      beta_start, beta_end: ends of the linear beta schedule.
    """

    learns_variance: ClassVar[bool] = True
    ignores_variance: ClassVar[bool] = False
    steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self) -> None:
        positive("process", steps=self.steps, beta_start=self.beta_start)
        if not self.beta_start <= self.beta_end < 1:
            raise UserError(f"process.beta_end must lie in [beta_start, 1), got {self.beta_end!r}")

    @property
    def times(self) -> tuple[int, int]:
        """See `diffusion.process`."""
        return 0, self.steps - 1

    @cached_property
    def alpha_bar(self) -> np.ndarray:
        """[T] float64."""
        return np.cumprod(1 - np.linspace(self.beta_start, self.beta_end, self.steps))

    def timesteps(self, n: int, grid: str = "dit") -> np.ndarray:
        """n times of a grid, ascending; int64, of "pixart" float64.

        That of DiT is a real-valued stride, accumulated and rounded: 250 of 1000 are 0, 4, 8, ..., 995, 999.

        Raises:
          UserError: n is not in 1..T, or no such grid.
        """
        if grid not in GRIDS:
            raise UserError(f"no solver.grid {grid!r}{nearest(str(grid), GRIDS)}")
        most = self.steps if grid == "dit" else self.steps - 1
        if not 1 <= n <= most:
            raise UserError(f"steps must lie in 1..{most} (the process has {self.steps}), got {n}")
        if grid != "dit":
            times = np.linspace(0, self.steps - 1, n + 1)[1:]
            return times.round().astype(int) if grid == "diffusers" else times
        if n == 1:
            return np.array([self.steps - 1])
        stride = (self.steps - 1) / (n - 1)
        return np.array([round(position) for position in np.append(0.0, np.cumsum(np.full(n - 1, stride)))])

    def chain(self, n: int | None = None, grid: str = "dit") -> Chain:
        """The chain of n times of a grid; all T by default."""
        t = np.arange(self.steps) if n is None else self.timesteps(n, grid)
        if grid != "pixart":
            return Chain(t, self.alpha_bar[t])
        between = np.interp(t, np.arange(self.steps), np.log(self.alpha_bar))
        return Chain(t, np.exp(between), float(self.alpha_bar[0]))

    def draw_times(self, key: Array, n: int, low: float = 0.0, high: float = 1.0) -> Array:
        """[n] int32, uniform over the times of [low T, high T), never none."""
        first, end = (round(share * self.steps, 6) for share in (low, high))
        return jax.random.randint(key, (n,), math.floor(first), math.ceil(end))

    def share(self, t: Array) -> Array:
        """t / T."""
        return t / self.steps

    def add_noise(self, x0: Array, noise: Array, t: Array) -> Array:
        """x_t by (1): x0 and noise [B, ...], t [B]."""
        shape, t = (-1,) + (1,) * (x0.ndim - 1), jnp.asarray(t).astype(int)
        signal = jnp.asarray(np.sqrt(self.alpha_bar), jnp.float32)[t].reshape(shape)
        sigma = jnp.asarray(np.sqrt(1 - self.alpha_bar), jnp.float32)[t].reshape(shape)
        return signal * x0 + sigma * noise
