"""A solver as a table of numbers: one row per evaluation of the network, each "correct, then predict".

    x0 = x0_from_x x + x0_from_output output                              x: where the network was evaluated
    xc = kx x + kl x_last + k0 x0 + k1 x0_prev + kz z_last                the corrector; without one, xc = x
    x' = cx xc + c0 x0 + c1 x0_prev + std z                               where it is evaluated next

with log std^2 between log_low and log_high by the learned v. `x_last`, `x0_prev` and `z_last` are xc, x0
and z of the row before; where that added no noise, z_last is its x0_prev, so that a solver without noise reads three
x0 and no other pays for it. A solver is a table made on the host, a row for every sample is one small argument, and
so one compiled program runs them all, for any number of steps. History lives in latent space and survives a
change of patch size.

What is no number stays none from row to row. So each row looks at its own x', within its program, and keeps the step
in which that was first not finite: whoever reads a sample's end knows, and nobody waits for it in between.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.types import Array, Prediction
from flexidit_jax.diffusion.likelihood import log_variance


class Steps(NamedTuple):
    """Rows in the order executed (noise first); every array is [rows], every number of a row a scalar, or of
    a row for every sample an array [B].

    Attributes:
      step: which of the user's steps a row belongs to, ascending from 0; a step may take several.
      t: the time the network is told.
      x0_from_x, x0_from_output: how the process reads x0 off the network's output.
      kx, kl, k0, k1, kz: the corrector's weights of x, x_last, x0, x0_prev and z_last.
      cx, c0, c1: the predictor's weights of the corrected x, x0 and x0_prev.
      log_low, log_high: ends of the log variance of the added noise.
      noisy: 1 where noise is added, else 0.
    """

    step: Array
    t: Array
    x0_from_x: Array
    x0_from_output: Array
    kx: Array
    kl: Array
    k0: Array
    k1: Array
    kz: Array
    cx: Array
    c0: Array
    c1: Array
    log_low: Array
    log_high: Array
    noisy: Array

    @classmethod
    def over(cls, chain: Any, **columns: Array) -> Steps:
        """One row per level of a chain.

        Args:
          chain: gives t, x0_from_x and x0_from_output, [n] ascending.
          **columns: [n] ascending; those not given are zero, but kx one: no corrector, history or noise.
        """
        n = len(chain.t)
        columns = {name: getattr(chain, name) for name in ("t", "x0_from_x", "x0_from_output")} | columns
        columns = {"kx": np.ones(n), **columns, "step": np.arange(n)[::-1]}
        return cls(*(np.asarray(columns.get(name, np.zeros(n)), np.float64)[::-1] for name in cls._fields))

    @property
    def times(self) -> np.ndarray:
        """The time at which each step begins, [steps]."""
        return self.t[np.searchsorted(self.step, np.arange(len(self.evaluations)))]

    @property
    def evaluations(self) -> np.ndarray:
        """How often each step runs the network, int [steps]."""
        return np.bincount(self.step.astype(int))

    def rows(self) -> np.ndarray:
        """float32 [rows, columns]; `Steps(*row)` reads one row."""
        return np.stack(self, axis=1).astype(np.float32)


class Carry(NamedTuple):
    """What one row hands to the next, each [B, ...].

    Attributes:
      x: where the network is evaluated next.
      x_last, x0_prev, z_last: the row's corrected x, its x0 and its noise, or without noise its own x0_prev.
      lost: the step that first made an x that is not finite, -1 while there is none; [B, 1, ...], as many axes as x.
    """

    x: Array
    x_last: Array
    x0_prev: Array
    z_last: Array
    lost: Array


def begin(x: Array) -> Carry:
    """The carry before the first row: x_T and no history."""
    nothing = jnp.zeros_like(x)
    return Carry(x, nothing, nothing, nothing, np.full(lost_shape(jnp.shape(x)), -1, np.float32))


def lost_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of `Carry.lost` where that of x is `shape`."""
    return shape[:1] + (1,) * len(shape[1:])


def advance(row: Steps, carry: Carry, prediction: Prediction, noise: Array) -> Carry:
    """One row of any solver, or a row for every sample.

    Args:
      row: numbers that broadcast against x: scalars, or [B, 1, ...].
      carry: from the row before.
      prediction: the (guided) prediction at `carry.x`.
      noise: shaped like x.
    """
    x, x_last, x0_prev, z_last, lost = carry
    x0 = row.x0_from_x * x + row.x0_from_output * prediction.output
    corrected = row.kx * x + row.kl * x_last + row.k0 * x0 + row.k1 * x0_prev + row.kz * z_last
    logvar = row.log_low
    if prediction.variance is not None:
        logvar = log_variance(prediction.variance, row.log_low, row.log_high)
    std = jnp.where(row.noisy > 0, jnp.exp(0.5 * logvar), 0.0)  # a step without noise reads no variance
    x = row.cx * corrected + row.c0 * x0 + row.c1 * x0_prev + std * noise
    finite = jnp.isfinite(x).all(tuple(range(1, jnp.ndim(x))), keepdims=True)
    last = jnp.where(row.noisy > 0, noise, x0_prev)
    return Carry(x, corrected, x0, last, jnp.where(finite | (lost >= 0), lost, row.step))
