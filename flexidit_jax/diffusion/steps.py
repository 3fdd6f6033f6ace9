"""A solver step as a row of numbers.

Every step of every solver here is

    x0 = x0_from_x x + x0_from_output output
    x' = cx x + c0 x0 + c1 x0_prev + std z,    log std^2 between log_low and log_high by the learned v

so a solver is a table made on the host, and one compiled program runs them all. `x0_prev` is the x0
of the step executed before: history lives in latent space and survives a change of patch size.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.types import Array, Prediction
from flexidit_jax.diffusion.likelihood import log_variance


class Steps(NamedTuple):
    """Rows in the order executed (noise first); every array is [n].

    Attributes:
      t: int, the time the network is told.
      x0_from_x, x0_from_output: how the process reads x0 off the network's output.
      cx, c0, c1: weights of x, x0 and the previous x0.
      log_low, log_high: ends of the log variance of the added noise.
      noisy: 1 where noise is added, else 0.
    """

    t: np.ndarray
    x0_from_x: np.ndarray
    x0_from_output: np.ndarray
    cx: np.ndarray
    c0: np.ndarray
    c1: np.ndarray
    log_low: np.ndarray
    log_high: np.ndarray
    noisy: np.ndarray

    def padded(self, rows: int) -> Steps:
        """Zero rows up to a fixed length, in float32: a table of another length would be another program."""
        return Steps(
            *(
                np.pad(column, (0, rows - len(column))).astype(np.int32 if name == "t" else np.float32)
                for name, column in zip(self._fields, self, strict=True)
            )
        )

    def row(self, k: Array) -> Steps:
        """Row k, a scalar per column."""
        return Steps(*(jnp.asarray(column)[k] for column in self))


def advance(row: Steps, x: Array, x0_prev: Array, prediction: Prediction, noise: Array) -> tuple[Array, Array]:
    """One step of any solver.

    Args:
      row: scalars.
      x, x0_prev, noise: [B, ...].
      prediction: the (guided) prediction at x.

    Returns:
      The next x and this step's x0.
    """
    x0 = row.x0_from_x * x + row.x0_from_output * prediction.output
    logvar = row.log_low
    if prediction.variance is not None:
        logvar = log_variance(prediction.variance, row.log_low, row.log_high)
    std = row.noisy * jnp.exp(0.5 * logvar)
    return row.cx * x + row.c0 * x0 + row.c1 * x0_prev + std * noise, x0
