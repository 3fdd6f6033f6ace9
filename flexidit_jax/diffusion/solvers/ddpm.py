"""Ancestral sampling (DDPM): a draw from the learned posterior at every step but the last.

Without a learned variance the posterior variance beta~ is used.
"""

from __future__ import annotations

import numpy as np

from flexidit_jax.diffusion.gaussian import Chain, Process
from flexidit_jax.diffusion.steps import Steps


def table(process: Process, steps: int) -> Steps:
    """x' = coef_x x + coef_x0 x0 + std z, std between beta~ and beta."""
    return over(process.chain(steps))


def over(chain: Chain) -> Steps:
    """The rows of a given chain."""
    return Steps.over(
        chain,
        cx=chain.coef_x,
        c0=chain.coef_x0,
        log_low=chain.log_posterior_variance,
        log_high=chain.log_beta,
        noisy=np.arange(len(chain.t)) > 0,
    )
