"""SA-Solver (arXiv 2309.05019) with a predictor and a corrector of order 2, on the data prediction.

The reverse SDE with tau(t) times its usual noise, tau = 0 being the ODE. With lambda = log(alpha / sigma)
and h the step from lambda to lambda' (h_last the one before):

    x' = e^(-tau^2 h) sigma'/sigma x + weights . (x0s) + sigma' sqrt(1 - e^(-2 tau^2 h)) z

The weights of the x0s sum to w = alpha' (1 - e^-gh), g = 1 + tau^2, and differ by what a line through two
of them asks for, to leading order in h:

    predictor   x0_prev: -g alpha' h^2 / (2 h_last),  x0: the rest of w
    corrector   x0 at the predicted x': g alpha' h / 2,  x0 before it: the rest of w

The corrector redoes the step just made, noise included, once the network has seen where it led; so it
costs no evaluation. These leading-order weights are those of the released code, not the paper's integrals;
where h is large they are poor, so the step to the lowest level, by far the longest in lambda, has a
predictor of order one, as have the first, without a history, and the last, without a finite h.
"""

from __future__ import annotations

import numpy as np

from flexidit_jax.common.arguments import finite_array, holds, shown
from flexidit_jax.common.errors import UserError
from flexidit_jax.diffusion.gaussian import Chain, Process
from flexidit_jax.diffusion.steps import Steps


def table(
    process: Process, steps: int, tau: float = 1.0, between: tuple[float, float] = (0.2, 0.8), grid: str = "dit"
) -> Steps:
    """The rows of `steps` steps.

    Args:
      process: noise process.
      steps: number of steps, one evaluation each.
      tau: how stochastic: 1 is the usual reverse SDE, 0 the ODE.
      between: the times, as shares of T, at which tau holds; elsewhere it is 0.
      grid: of times, see `diffusion.gaussian`; each ends with x0 at its lowest time.

    Raises:
      UserError: a tau that is negative or not finite, or times that are no stretch of 0..1.
    """
    if not tau >= 0:
        raise UserError(f"solver.tau must be at least 0, got {tau!r}")
    if not holds(tau):
        raise UserError(f"solver.tau must be finite, got {tau!r}")
    pair = finite_array(between, "solver.between")
    if np.shape(pair) != (2,) or not 0 <= pair[0] <= pair[1] <= 1:
        raise UserError(f"solver.between must be (lowest, highest) share of T, within 0..1, got {shown(between)}")
    chain = process.chain(steps, grid)
    low, high = (share * process.steps for share in pair)
    return over(chain, tau * ((low <= chain.t) & (chain.t <= high)))


def over(chain: Chain, tau: np.ndarray) -> Steps:
    """The rows of a given chain, `tau` [n] at its levels."""
    n = len(chain.t)
    h = np.append(np.inf, -np.diff(chain.half_log_snr))  # h[i]: from level i to the next lower one
    tau, g = np.square(tau)[1:], 1 + np.square(tau)[1:]  # of the steps that end above level -1
    cx, c0, c1, variance = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
    k0, k1 = np.zeros(n), np.zeros(n)
    step = h[1:]
    cx[1:] = np.exp(-tau * step) * (chain.sigma_prev / chain.sigma)[1:]
    whole = chain.signal_prev[1:] * -np.expm1(-g * step)
    c1[2:-1] = -(g * chain.signal_prev[1:] * step**2)[1:-1] / (2 * step[2:])
    c0[1:] = whole - c1[1:]
    c0[0] = 1  # the last step lands on x0
    variance[1:] = np.square(chain.sigma_prev[1:]) * -np.expm1(-2 * tau * step)
    # the corrector at level i redoes the step from level i + 1
    k0[:-1] = g * chain.signal_prev[1:] * step / 2
    k1[:-1] = whole - k0[:-1]
    noisy = variance > 0
    log_variance = np.log(np.where(noisy, variance, 1.0))
    return Steps.over(
        chain,
        kx=np.arange(n) == n - 1,
        kl=np.append(cx[1:], 0.0),
        k0=k0,
        k1=k1,
        kz=np.append(np.sqrt(variance[1:]), 0.0),
        cx=cx,
        c0=c0,
        c1=c1,
        log_low=log_variance,
        log_high=log_variance,
        noisy=noisy,
    )
