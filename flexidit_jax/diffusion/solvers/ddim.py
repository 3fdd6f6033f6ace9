"""DDIM with eta = 0 (arXiv 2010.02502): the deterministic step to the next lower noise level."""

from __future__ import annotations

from flexidit_jax.diffusion.gaussian import Chain, Process
from flexidit_jax.diffusion.steps import Steps


def table(process: Process, steps: int, grid: str = "dit") -> Steps:
    """x' = sqrt(ab') x0 + sqrt(1 - ab') eps, with eps written through x and x0; `grid` as in `diffusion.gaussian`."""
    return over(process.chain(steps, grid))


def over(chain: Chain) -> Steps:
    """The rows of a given chain."""
    cx = chain.sigma_prev / chain.sigma
    return Steps.over(chain, cx=cx, c0=chain.signal_prev - cx * chain.signal)
