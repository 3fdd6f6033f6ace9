"""DDIM with eta = 0 (arXiv 2010.02502): the deterministic step to the next lower noise level."""

from __future__ import annotations

import numpy as np

from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.diffusion.steps import Steps


def table(process: Process, steps: int) -> Steps:
    """x' = sqrt(ab') x0 + sqrt(1 - ab') eps, with eps written through x and x0."""
    chain = process.chain(steps)
    cx = np.sqrt((1 - chain.alpha_bar_prev) / (1 - chain.alpha_bar))
    zeros = np.zeros(steps)
    columns = Steps(
        t=chain.t,
        x0_from_x=chain.x0_from_x,
        x0_from_output=chain.x0_from_output,
        cx=cx,
        c0=np.sqrt(chain.alpha_bar_prev) - cx * np.sqrt(chain.alpha_bar),
        c1=zeros,
        log_low=zeros,
        log_high=zeros,
        noisy=zeros,
    )
    return Steps(*(column[::-1] for column in columns))
