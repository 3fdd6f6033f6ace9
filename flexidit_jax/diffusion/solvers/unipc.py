"""UniPC of second order with B2(h) = e^h - 1 (arXiv 2302.04867), for flow matching: Wan 2.1's sampler.

Every row corrects the step before it with what the network says at its end, then predicts the next; one evaluation a
step. With lambda = log((1 - s) / s), h = lambda' - lambda > 0 and w = (1 - s') (1 - e^-h):

    predicted   x' = s'/s x + (w - c1) x0 + c1 x0_prev,  c1 = w / 2r,  r = (lambda_prev - lambda) / h < 0
    corrected   x  = s/s_prev x_last + k0 x0 + k1 x0_prev + k2 x0_prev_prev

of the first order at the first step, whose history is empty, and predicted so at the last, where h is infinite.
"""

from __future__ import annotations

import numpy as np

from flexidit_jax.diffusion.flow import Chain, Process
from flexidit_jax.diffusion.steps import Steps


def table(process: Process, steps: int, grid: str = "even") -> Steps:
    """The rows of `steps` steps, at the levels of a grid (`diffusion.flow`)."""
    return over(process.chain(steps, grid))


def over(chain: Chain) -> Steps:
    """The rows of a given chain."""
    n = len(chain.s)
    s, ahead = chain.s[::-1], chain.s_prev[::-1]  # in the order executed
    half_log_snr = np.append(chain.half_log_snr[::-1], np.inf)
    h = np.diff(half_log_snr)
    w = -(1 - ahead) * np.expm1(-h)
    second = np.minimum(np.arange(n) + 1, n - np.arange(n)) > 1  # of both orders, which steps have two
    c1, k0, k1, k2 = (np.zeros(n) for _ in range(4))
    for i in range(n):
        ratio = (half_log_snr[i - 1] - half_log_snr[i]) / h[i] if second[i] else -np.inf
        c1[i] = w[i] / (2 * ratio)
        if i + 1 < n:  # the next row corrects this step
            k0[i + 1], k1[i + 1], k2[i + 1] = _corrector(w[i], h[i], ratio) if second[i] else (w[i] / 2, w[i] / 2, 0)
    first = np.arange(n) == 0
    columns = {
        "kx": first.astype(float),
        "kl": np.where(first, 0.0, s / np.append(1.0, s[:-1])),
        "k0": k0,
        "k1": k1,
        "kz": k2,  # without noise: of x0 two rows before
        "cx": ahead / s,
        "c0": w - c1,
        "c1": c1,
    }
    return Steps.over(chain, **{name: column[::-1] for name, column in columns.items()})


def _corrector(w: float, h: float, ratio: float) -> tuple[float, float, float]:
    """k0, k1 and k2 of a step of second order."""
    b = np.expm1(-h)
    phi_1 = -b / h - 1
    phi_2 = -phi_1 / h - 0.5
    b1, b2 = phi_1 / b, 2 * phi_2 / b
    rho_1 = (b1 - b2) / (1 - ratio)
    k0, k2 = w * (b1 - rho_1), w * rho_1 / ratio
    return k0, w - k0 - k2, k2
