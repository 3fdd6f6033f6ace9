"""Noise drawn per sample from (seed, index of the sample, step): to the bit the same whatever batch it is in."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np

from flexidit_jax.common.arguments import finite_array, typed
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Array
from flexidit_jax.models.patch import as_video


@partial(jax.jit, static_argnames="shape")
def normal(seeds: Array, indices: Array, draws: Array, shape: tuple[int, ...]) -> Array:
    """Noise [B, *shape] of uint32 [B] each; a row depends on its three numbers alone.

    Draw 0 is x_T, k + 1 the noise of step k.
    """

    def one(seed: Array, index: Array, draw: Array) -> Array:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), index), draw)
        return jax.random.normal(key, shape)

    return jax.vmap(one)(seeds, indices, draws)


def draws(seeds: int | Array, indices: Array, steps: int | Array) -> tuple[np.ndarray, ...]:
    """What `normal` is told to draw the noise of steps, or of x_T at step -1: uint32 [B] each.

    Args:
      seeds, steps: one for all samples or one for each.
      indices: [B], the samples' numbers.
    """
    numbers = np.broadcast_arrays(seeds, indices, np.add(steps, 1))
    return tuple(np.asarray(number).astype(np.uint32) for number in numbers)


def given_noise(
    noise: Array | None, captured: Array | None, latent: tuple[int, ...], n: int, steps: int
) -> tuple[Array | None, Array | None]:
    """x_T and the noise of each step where they are given: [n, F, H, W, C] and [steps, n, F, H, W, C].

    Args:
      steps: of the sample that has most.

    Raises:
      UserError: shapes that do not fit the latent, the number of samples or each other, or noise that is not finite.
    """
    start = None if noise is None else as_video(noise, latent, "noise")
    if start is not None and len(start) != n:
        raise UserError(f"noise is for {len(start)} samples, but {n} are asked for")
    if captured is None:
        return start, None
    captured = finite_array(captured, "step_noise")
    if start is None or np.shape(captured) != (steps, *np.shape(noise)):
        raise UserError(
            f"step_noise must have shape [steps={steps}, *noise.shape] and come with noise, got {np.shape(captured)}"
        )
    return start, np.asarray(captured, np.float32).reshape(steps, n, *latent)


def sample_numbers(numbers: Any, count: int) -> np.ndarray:
    """The numbers of `count` samples of their seeds, int [count].

    Raises:
      UserError: another number of them, or what are no whole numbers below 2^32.
    """
    found = np.asarray(finite_array(numbers, "numbers"))
    if found.shape != (count,) or not (0 <= found.min() <= found.max() < 2**32) or (found % 1).any():
        raise UserError(f"numbers must be {count} whole numbers in 0..2^32-1, got {found.tolist()!s:.60}")
    return found.astype(int)


def first_number(first: Any, n: int) -> int:
    """The number of the first of n samples.

    Raises:
      UserError: not a whole number, or one from which there are not so many.
    """
    first = typed(first, "int", "first")
    if first < 0:
        raise UserError(f"first must be at least 0, got {first!r}")
    if first > 2**32 - n:
        raise UserError(f"first must lie in 0..2^32-{n} for {n} samples, got {first!r}")
    return first
