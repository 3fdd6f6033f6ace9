"""Batches of samples through the engine: who is in which batch, and with which noise it begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress
from flexidit_jax.common.types import Array
from flexidit_jax.diffusion.steps import Steps
from flexidit_jax.sampling.calibration import fastest, times_of
from flexidit_jax.sampling.engine import Engine
from flexidit_jax.sampling.noise import starting_noise
from flexidit_jax.sampling.plan import Plan
from flexidit_jax.sampling.spec import SampleSpec


def check_numbers(first: int, n: int, batch: int | None) -> None:
    """Refuses samples that have no number, and batches that hold none.

    Raises:
      UserError: not whole numbers, or out of their range.
    """
    build.check_type(first, "int", "first")
    build.check_type(batch, "int | None", "batch")
    if first < 0:
        raise UserError(f"first must be at least 0, got {first!r}")
    if first > 2**32 - n:
        raise UserError(f"first must lie in 0..2^32-{n} for {n} samples, got {first!r}")
    if batch is not None and batch < 1:
        raise UserError(f"batch must be at least 1, got {batch}")


def denoised(
    engine: Engine,
    spec: SampleSpec,
    plan: Plan,
    table: Steps,
    layouts: Sequence[str],
    cond: Array,
    batch: int,
    first: int,
    noise: Array | None,
    step_noise: Array | None,
    progress: bool | Callable[[], object],
) -> Iterator[Array]:
    """x_0 of one batch after the other, [batch, F, H, W, C]; the last batch repeats its last sample.

    Args:
      spec, plan, table: what is asked for, and what was made of it.
      layouts: for two predictions of two lengths; the fastest is taken.
      cond: the condition of all samples, [n, ...].
      batch: samples per call of the network; a multiple of the engine's devices.
      first: number of the first sample.
      noise, step_noise: instead of drawn noise, [n, F, H, W, C] and [steps, n, F, H, W, C].
      progress: show a bar over steps, or what to call after each step of each batch.
    """
    n, latent = len(cond), engine.model.latent
    like = cond[np.minimum(np.arange(batch), n - 1)]
    runs = fastest(plan.segments, layouts, times_of(engine, table, like, spec.guidance_channels))
    with Progress(spec.steps * -(-n // batch), "sampling", enabled=progress is True) as bar:
        tick = progress if callable(progress) else bar.advance
        for begin in range(0, n, batch):
            if batch < n:
                bar.note(f"batch {begin // batch + 1} of {-(-n // batch)}")
            here = np.minimum(np.arange(begin, begin + batch), n - 1)
            chain = engine.denoise(
                runs,
                table,
                x=starting_noise(spec.seed, first + here, latent) if noise is None else noise[here],
                cond=cond[here],
                seed=spec.seed,
                indices=first + here,
                captured=None if step_noise is None else step_noise[:, here],
                guidance_channels=spec.guidance_channels,
            )
            for latents in chain:  # noqa: B007 (the last one is x_0)
                tick()
            yield latents
