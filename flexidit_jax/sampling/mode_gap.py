"""What a weaker mode costs at each step, measured on data (FlexiDiT Fig. 4).

At step k the network sees x_t, a record noised to that step's time. Its output there in a weaker mode, less
that of the most powerful one, is the *gap*; what the gap does to the sample is the *error*:

    x' = (cx k0 + c0) x0 + ...,  x0 = x0_from_output output + ...
    error = ((cx k0 + c0) x0_from_output)^2 gap                          (1)

the mean square by which x' differs. The gap itself does not compare steps: a step that hardly moves the
sample, as the last one, forgives a large gap, and x0 is blurred most where its weight is least.
Errors of different steps are added up as if independent and carried to the end unchanged. That is
an estimate, not a bound: later steps shrink some errors and the steps of one mode err alike. History (c1, k1) is
left out; its weights go with c0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.types import Array, Patch, Prediction
from flexidit_jax.diffusion.process import NoiseProcess
from flexidit_jax.diffusion.steps import Steps
from flexidit_jax.models.conditioning.condition import Condition, as_null, take
from flexidit_jax.sampling.guidance import guided

#: predict(x, t, cond, patch), as `FlexiDiT.predict`
Predict = Callable[[Array, Array, Condition, Patch], Prediction]


def measure(
    predict: Predict,
    patches: Sequence[Patch],
    process: NoiseProcess,
    table: Steps,
    batches: Iterable[tuple[Array, Condition]],
    scales: Sequence[float],
    channels: int | None = None,
    seed: int = 0,
    negative: Condition | None = None,
    tick: Callable[[], None] = lambda: None,
) -> np.ndarray:
    """The mean squared difference to the most powerful mode's output, [modes, rows] float64; row 0 is zero.

    Args:
      predict: the network.
      patches: its modes, powerful first.
      process: noises the data.
      table: the solver's rows; each is measured at its own time.
      batches: latents [B, F, H, W, C] and their condition. All modes see the same noise.
      scales: guidance of every step, [steps], each mode guiding itself; 1 runs no guide.
      channels: see `sampling.guidance.guided`.
      seed: of the noise.
      negative: of one sample, what guidance leads away from instead of no condition.
      tick: called after every row of every batch.
    """
    total, count = np.zeros((len(patches), len(table.t))), 0
    root = jax.random.key(seed)

    def output(x: Array, t: Array, cond: Condition, scale: float, patch: Patch) -> Array:
        strong = predict(x, t, cond, patch)
        if scale == 1:
            return strong.output
        away = as_null(cond) if negative is None else take(negative, np.zeros(len(x), int))
        return guided(strong, predict(x, t, away, patch), scale, channels).output

    for number, (x0, cond) in enumerate(batches):
        x0, count = jnp.asarray(x0), count + len(x0)
        for row, (step, time) in enumerate(zip(table.step.astype(int), table.t, strict=True)):
            key = jax.random.fold_in(jax.random.fold_in(root, number), row)
            t = jnp.full(len(x0), time, jnp.float32)
            x = process.add_noise(x0, jax.random.normal(key, x0.shape), t)
            powerful, *weaker = (output(x, t, cond, scales[step], patch) for patch in patches)
            total[1:, row] += [len(x0) * float(jnp.mean(jnp.square(weak - powerful))) for weak in weaker]
            tick()
    return total / count


def errors(gaps: np.ndarray, table: Steps) -> np.ndarray:
    """(1), summed over the evaluations of each step: [modes, rows] -> [modes, steps]."""
    weights = np.square((table.cx * table.k0 + table.c0) * table.x0_from_output)
    return _per_step(weights * gaps, table)


def mean_gaps(gaps: np.ndarray, table: Steps) -> np.ndarray:
    """The mean gap over the evaluations of each step: [modes, rows] -> [modes, steps]."""
    return _per_step(gaps, table) / table.evaluations


def _per_step(values: np.ndarray, table: Steps) -> np.ndarray:
    return np.stack([np.bincount(table.step.astype(int), mode) for mode in values])
