"""What one sample runs, evaluation by evaluation: a plan and a solver's table as rows.

A sample is a row of whatever it is evaluated with. What differs between two samples (step, scale, seed, the solver's
numbers, condition) is an array [B, ...]; what makes another XLA program is a `Program`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from flexidit_jax.common.types import Array, Patch
from flexidit_jax.diffusion.steps import Steps
from flexidit_jax.sampling.schedule import Segment


class Program(NamedTuple):
    """What, beside the shapes of its arguments, tells one step program from another.

    Attributes:
      cond_patch, guide_patch: modes of the two predictions; None where nothing guides.
      packing: see `sampling.packing`; "separate" where two lengths do not meet.
      channels: see `sampling.guidance.guided`; None where nothing guides.
    """

    cond_patch: Patch
    guide_patch: Patch | None = None
    packing: str = "separate"
    channels: int | None = None

    @property
    def predictions(self) -> int:
        """Of every sample, in one evaluation."""
        return 1 if self.guide_patch is None else 2

    @property
    def modes(self) -> tuple[Patch, ...]:
        """Those that it evaluates, each once."""
        return tuple(dict.fromkeys(patch for patch in (self.cond_patch, self.guide_patch) if patch is not None))


class StepRows(NamedTuple):
    """What a step is told of every sample.

    Attributes:
      numbers: float32 [B, columns], the rows of solvers' tables (`diffusion.steps.Steps`).
      scale: float32 [B], of guidance.
      pick: int32 [B, predictions], its rows of the tables of the modes evaluated; None without (`sampling.tables`).
    """

    numbers: Array
    scale: Array
    pick: Array | None = None


@dataclass(frozen=True, eq=False, repr=False)
class Trajectory:
    """The chain of one sample, or of several that differ in condition and noise alone; R evaluations.

    Attributes:
      programs: of every evaluation, [R].
      numbers: float32 [R, columns].
      scale: float32 [R].
      step: int [R], which step an evaluation belongs to, from 0.
      noisy: bool [R], whether it adds noise.
      seed: of all noise.
    """

    programs: tuple[Program, ...]
    numbers: np.ndarray
    scale: np.ndarray
    step: np.ndarray
    noisy: np.ndarray
    seed: int

    @classmethod
    def of(cls, segments: Iterable[Segment], table: Steps, channels: int | None, seed: int) -> Trajectory:
        """From the segments of a plan, their packing settled, and the solver's rows."""
        runs = [segment for segment in segments for _ in range(segment.start, segment.stop)]
        step = np.asarray(table.step).astype(int)
        programs = [
            Program(
                *run.pair,
                run.packing if run.two_lengths else "separate",
                None if run.guide_patch is None else channels,
            )
            for run in runs
        ]
        return cls(
            programs=tuple(programs[k] for k in step),
            numbers=table.rows(),
            scale=np.array([runs[k].scale for k in step], np.float32),
            step=step,
            noisy=np.asarray(table.noisy) > 0,
            seed=seed,
        )

    @cached_property
    def ends(self) -> np.ndarray:
        """int [R + 1]: after so many evaluations, how many are done when the step under way is."""
        last = np.append(np.flatnonzero(np.diff(self.step)) + 1, len(self.step))
        return np.append(last[self.step], len(self.step))

    @cached_property
    def done(self) -> np.ndarray:
        """int [R + 1]: how many steps are done after so many evaluations."""
        return np.append(self.step, self.steps)

    @property
    def steps(self) -> int:
        """How many there are."""
        return int(self.step[-1]) + 1
