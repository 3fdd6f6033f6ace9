"""DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2): second order from one evaluation a step.

With lambda = log(alpha / sigma), h the step to come and h_last the one before (both in lambda):

    x' = sigma'/sigma x + alpha' (1 - e^-h) ((1 + h / 2 h_last) x0 - h / (2 h_last) x0_prev)

The first step has no history and the last no finite h: both are first order, which is DDIM.
"""

from __future__ import annotations

import numpy as np

from flexidit_jax.diffusion import flow, gaussian
from flexidit_jax.diffusion.steps import Steps


def table(process: gaussian.Process | flow.Process, steps: int, grid: str | None = None) -> Steps:
    """The rows of `steps` steps, at the times of a grid of the process; None: its own."""
    return over(process.chain(steps, **({} if grid is None else {"grid": grid})))


def over(chain: gaussian.Chain | flow.Chain) -> Steps:
    """The rows of a given chain."""
    cx = chain.sigma_prev / chain.sigma
    whole = chain.signal_prev - cx * chain.signal  # alpha' (1 - e^-h), also at the last step
    extrapolated = np.zeros(len(chain.t))
    h = -np.diff(chain.half_log_snr)  # h[i]: from level i+1 down to level i
    extrapolated[1:-1] = h[:-1] / (2 * h[1:])
    return Steps.over(chain, cx=cx, c0=whole * (1 + extrapolated), c1=-whole * extrapolated)
