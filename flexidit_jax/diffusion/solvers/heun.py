"""Heun's method for flow matching: Euler's step, then the same step along the mean of both velocities.

Two evaluations a step, but one in the last, which is Euler's: at s = 0 there is no velocity to ask for.
"""

from __future__ import annotations

import numpy as np

from flexidit_jax.diffusion.flow import Chain, Process
from flexidit_jax.diffusion.solvers import euler
from flexidit_jax.diffusion.steps import Steps


def table(process: Process, steps: int, grid: str = "even") -> Steps:
    """Rows in pairs: x' = x + (s' - s) v, then x + (s' - s) (v + v') / 2 with v' taken at x'.

    Levels are those of a grid (`diffusion.flow`).
    """
    return over(process.chain(steps, grid))


def over(chain: Chain) -> Steps:
    """The rows of a given chain."""
    predict = euler.over(chain)
    s, s_next = chain.s[:0:-1], chain.s_prev[:0:-1]  # of every step but the last
    # v = (x_last - x0_prev) / s and v' = (x' - x0) / s', each times half the step
    before, after = (s_next - s) / (2 * s), (s_next - s) / (2 * s_next)
    correct = Steps(*(np.zeros(len(s)) for _ in predict))._replace(
        step=predict.step[:-1],
        t=predict.t[1:],
        x0_from_x=predict.x0_from_x[1:],
        x0_from_output=predict.x0_from_output[1:],
        kx=after,
        kl=1 + before,
        k0=-after,
        k1=-before,
        cx=np.ones(len(s)),
    )
    order = np.argsort(np.concatenate([predict.step, correct.step]), kind="stable")
    return Steps(*(np.concatenate(both)[order] for both in zip(predict, correct, strict=True)))
