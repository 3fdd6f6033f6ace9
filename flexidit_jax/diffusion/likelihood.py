"""The variational bound in bits per dimension, as trained by models with a learned variance.

The KL of the true posterior to the model's at t > 0, the discretised likelihood at t = 0
(improved DDPM, arXiv 2102.09672, as in the ADM code base).
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.types import Array
from flexidit_jax.diffusion.gaussian import Process


def log_variance(raw: Array, low: Array, high: Array) -> Array:
    """`f high + (1 - f) low` with f = (raw + 1) / 2: the learned variance between beta~ and beta."""
    fraction = (raw + 1) / 2
    return fraction * high + (1 - fraction) * low


def gaussian_kl(mean1: Array, logvar1: Array, mean2: Array, logvar2: Array) -> Array:
    """KL(N(mean1, e^logvar1) || N(mean2, e^logvar2)) per element, in nats."""
    return 0.5 * (-1 + logvar2 - logvar1 + jnp.exp(logvar1 - logvar2) + (mean1 - mean2) ** 2 * jnp.exp(-logvar2))


def discretized_log_likelihood(x: Array, mean: Array, logvar: Array) -> Array:
    """Log probability of the bin [x - 1/255, x + 1/255] per element, in nats; ends of [-1, 1] are open."""

    def cdf(u: Array) -> Array:
        return 0.5 * (1 + jnp.tanh(np.sqrt(2 / np.pi) * (u + 0.044715 * u**3)))

    inverse_std = jnp.exp(-0.5 * logvar)
    upper = cdf((x - mean + 1 / 255) * inverse_std)
    lower = cdf((x - mean - 1 / 255) * inverse_std)
    probability = jnp.where(x < -0.999, upper, jnp.where(x > 0.999, 1 - lower, upper - lower))
    return jnp.log(jnp.maximum(probability, 1e-12))


def variational_bound(process: Process, x0: Array, xt: Array, t: Array, eps: Array, variance: Array) -> Array:
    """The bound's term at t, in bits averaged over all but the batch axis.

    Args:
      x0, xt: [B, ...] clean and noised latents.
      t: [B].
      eps, variance: the prediction, shaped like x0; x0 is not clipped.

    Returns:
      [B] float32.
    """
    chain = process.chain()
    shape = (-1,) + (1,) * (x0.ndim - 1)

    def lookup(table: np.ndarray) -> Array:
        return jnp.asarray(table, jnp.float32)[t].reshape(shape)

    coef_x0, coef_x, low = lookup(chain.coef_x0), lookup(chain.coef_x), lookup(chain.log_posterior_variance)
    predicted_x0 = lookup(chain.x0_from_x) * xt + lookup(chain.x0_from_output) * eps
    mean = coef_x0 * predicted_x0 + coef_x * xt
    logvar = log_variance(variance, low, lookup(chain.log_beta))
    kl = gaussian_kl(coef_x0 * x0 + coef_x * xt, low, mean, logvar)
    nll = -discretized_log_likelihood(x0, mean, logvar)
    axes = tuple(range(1, x0.ndim))
    return jnp.where(t == 0, nll.mean(axes), kl.mean(axes)) / np.log(2)
