"""Noise drawn per sample from (seed, index of the sample, step): to the bit the same whatever batch it is in."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Array
from flexidit_jax.models.patch import as_video


@partial(jax.jit, static_argnames="shape")
def normal(seed: Array, indices: Array, draw: Array, shape: tuple[int, ...]) -> Array:
    """[B, *shape] noise; row i depends on (seed, indices[i], draw) alone: draw 0 is x_T, k + 1 that of step k."""
    root = jax.random.key(seed)

    def one(index: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(jax.random.fold_in(root, index), draw), shape)

    return jax.vmap(one)(indices)


def starting_noise(seed: int, indices: Array, shape: tuple[int, ...]) -> Array:
    """x_T of the samples numbered `indices`, [B, *shape]."""
    return normal(np.uint32(seed), indices.astype(np.uint32), np.uint32(0), shape)


def step_noise(seed: int, indices: Array, k: int, shape: tuple[int, ...]) -> Array:
    """The noise of the k-th executed step of the samples numbered `indices`, [B, *shape]."""
    return normal(np.uint32(seed), indices.astype(np.uint32), np.uint32(k + 1), shape)


def given_noise(
    noise: Array | None, captured: Array | None, latent: tuple[int, ...], n: int, steps: int
) -> tuple[Array | None, Array | None]:
    """x_T and the noise of each step where they are given: [n, F, H, W, C] and [steps, n, F, H, W, C].

    Raises:
      UserError: shapes that do not fit the latent, the labels or each other.
    """
    start = None if noise is None else as_video(noise, latent)
    if start is not None and len(start) != n:
        raise UserError(f"noise is for {len(start)} samples, but there are {n} labels")
    if captured is None:
        return start, None
    if start is None or np.shape(captured) != (steps, *np.shape(noise)):
        raise UserError(
            f"step_noise must have shape [steps={steps}, *noise.shape] and come with noise, got {np.shape(captured)}"
        )
    return start, jnp.asarray(captured).reshape(steps, n, *latent)
