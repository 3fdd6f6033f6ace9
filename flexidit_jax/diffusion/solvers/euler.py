"""Euler's method for flow matching: along the velocity to the next lower level."""

from __future__ import annotations

from flexidit_jax.diffusion.flow import Chain, Process
from flexidit_jax.diffusion.steps import Steps


def table(process: Process, steps: int, grid: str = "even") -> Steps:
    """x' = x + (s' - s) v, with v = (x - x0) / s, at the levels of a grid (`diffusion.flow`)."""
    return over(process.chain(steps, grid))


def over(chain: Chain) -> Steps:
    """The rows of a given chain."""
    cx = chain.s_prev / chain.s
    return Steps.over(chain, cx=cx, c0=1 - cx)
