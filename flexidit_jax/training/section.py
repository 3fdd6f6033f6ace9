"""The `train` section of a config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.build import Section
from flexidit_jax.common.cores import cores
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Patch
from flexidit_jax.training.optimizer import AdamW, Ema
from flexidit_jax.training.stages import Stage, build_stages

#: of what a moving average began with, at the end of a stage: above that a run says so
LEFT_OF_START = 0.01


@dataclass(frozen=True)
class Training:
    """The `train` section.

    Attributes:
      batch: records per step, over all devices.
      preview_every: steps between pictures of the moving average's samples in TensorBoard; None draws none.
      spike: a loss this many times the usual one is told, and the checkpoint before it kept; None tells nothing.
      accumulate: parts a device evaluates its records in, one after the other; memory falls, nothing else changes.
      stages: see `training.stages.Stage`.
      optimizer, ema: see `training.optimizer`.
      mesh: see `training.sharding.make_mesh`.
      log_every: steps between entries of losses and speed.
      checkpoint_every: steps between checkpoints; the last step of a stage is always saved.
      keep: checkpoints kept.
      workers: threads that read records ahead, in every process; 0 reads between steps, None takes one per core.
    """

    batch: int
    stages: Sequence[Stage]
    optimizer: AdamW
    ema: Ema
    mesh: Section
    log_every: int
    checkpoint_every: int
    keep: int
    workers: int
    accumulate: int
    preview_every: int | None
    spike: float | None

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return sum(stage.steps for stage in self.stages)

    def short_averages(self) -> list[str]:
        """A line for every stage that is too short for its moving average, from which everybody samples."""
        lines, updates = [], np.zeros(0)
        for i, (before, stage) in enumerate(zip((None, *self.stages), self.stages), 1):
            drawn = stage.steps * np.array(stage.probabilities or [1 / len(stage.patches)] * len(stage.patches))
            updates = drawn + (updates if before is not None and stage.goes_on(before) else 0)
            left = self.ema.left_of_start(round(min(updates[updates > 0])))
            if left > LEFT_OF_START:
                lines.append(
                    f"at the end of stage {i} the moving average still holds {100 * left:.0f} % of what it began with,"
                    f" of the mode trained least ({stage.steps} steps, train.ema.decay={self.ema.decay:g}); set"
                    " train.ema.warmup=True or a smaller decay"
                )
        return lines

    def place(self, number: int) -> tuple[int, int]:
        """The stage of the step after `number` steps of the run, and the steps done in it."""
        for i, stage in enumerate(self.stages):
            if number < stage.steps:
                return i, number
            number -= stage.steps
        return len(self.stages) - 1, self.stages[-1].steps


def build_training(
    base: Patch,
    batch: int,
    stages: Sequence[Section],
    loss: Section,
    optimizer: Section,
    ema: Section,
    mesh: Section,
    log_every: int = 100,
    checkpoint_every: int = 1000,
    keep: int = 2,
    workers: int | None = 1,
    accumulate: int = 1,
    preview_every: int | None = None,
    spike: float | None = 10.0,
) -> Training:
    """The `train` section from its keys; `base` is the pre-trained patch, `loss` that of stages without their own.

    Raises:
      UserError: a key that is unknown or out of its range.
    """
    counts = {"batch": batch, "log_every": log_every, "checkpoint_every": checkpoint_every, "keep": keep}
    given = {"preview_every": preview_every, "spike": spike}
    build.positive("train", **counts, accumulate=accumulate, **{k: v for k, v in given.items() if v is not None})
    workers = cores() if workers is None else workers
    if workers < 0:
        raise UserError(f"train.workers must be at least 0, got {workers}")
    return Training(
        batch=batch,
        stages=build_stages(stages, base, loss),
        optimizer=build.call(AdamW, optimizer, "train.optimizer"),
        ema=build.call(Ema, ema, "train.ema"),
        mesh=mesh,
        log_every=log_every,
        checkpoint_every=checkpoint_every,
        keep=keep,
        workers=workers,
        accumulate=accumulate,
        **given,
    )
