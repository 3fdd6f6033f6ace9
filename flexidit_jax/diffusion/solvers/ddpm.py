"""Ancestral sampling (DDPM): a draw from the learned posterior at every step but the last.

Without a learned variance the posterior variance beta~ is used.
"""

from __future__ import annotations

import numpy as np

from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.diffusion.steps import Steps


def table(process: Process, steps: int) -> Steps:
    """x' = coef_x x + coef_x0 x0 + std z, std between beta~ and beta."""
    chain = process.chain(steps)
    columns = Steps(
        t=chain.t,
        x0_from_x=chain.x0_from_x,
        x0_from_output=chain.x0_from_output,
        cx=chain.coef_x,
        c0=chain.coef_x0,
        c1=np.zeros(steps),
        log_low=chain.log_posterior_variance,
        log_high=chain.log_beta,
        noisy=(np.arange(steps) > 0).astype(float),
    )
    return Steps(*(column[::-1] for column in columns))
