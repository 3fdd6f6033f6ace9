"""Samples under way, as a value: what they are, and how far each of them has come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from flexidit_jax.common.types import Patch
from flexidit_jax.diffusion.steps import Carry
from flexidit_jax.models.conditioning.condition import Condition, Given
from flexidit_jax.sampling.snapshot import Snapshot
from flexidit_jax.sampling.tables import Table, Told
from flexidit_jax.sampling.trajectory import Program, Trajectory

#: a mode, and which of a sample's three conditions it reads
Reading: TypeAlias = tuple[Patch, tuple[int, ...]]


@dataclass(frozen=True, eq=False, repr=False)
class State:
    """Samples under way. A value: `Sampler.step` makes another one, and the old one stays good.

    Attributes:
      carry: [B, ...] on the device.
      conds: conditions on the host: the samples' own, their guide's where a mode guides itself and where a weaker one
        guides it.
      told_of: all three as modulations are made of them, whole on every device; None where steps make their own.
      tables: modulations made of them for steps to come, by mode.
      given: what steps read of them, on the device, by mode and which of the three.
      chains: the trajectories there are.
      which: int [B], that of every sample.
      at: int [B], the evaluations each sample has made.
      numbers: uint32 [B], which sample of its seed each is.
      captured: [steps, B, F, H, W, C] instead of drawn noise.
    """

    carry: Carry
    conds: tuple[Condition, Condition, Condition]
    told_of: Told | None
    tables: Mapping[Patch, Table]
    given: Mapping[Reading, Given]
    chains: tuple[Trajectory, ...]
    which: np.ndarray
    at: np.ndarray
    numbers: np.ndarray
    captured: np.ndarray | None

    def told(self, name: str, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """What the chains of the samples `rows` say at the evaluations they have come to, [rows, ...]."""
        arrays, which, at = [getattr(chain, name) for chain in self.chains], self.which[rows], self.at[rows]
        if len(arrays) == 1:
            return arrays[0][at]
        found = np.empty((len(at), *arrays[0].shape[1:]), arrays[0].dtype)
        for i, array in enumerate(arrays):
            found[which == i] = array[at[which == i]]
        return found

    def waiting(self, rows: np.ndarray) -> dict[Program, np.ndarray]:
        """The samples `rows` by the program of their next evaluation."""
        groups: dict[Program, list[np.ndarray]] = {}
        for i, chain in enumerate(self.chains):
            mine = rows[self.which[rows] == i]
            for at in np.unique(self.at[mine]):
                groups.setdefault(chain.programs[at], []).append(mine[self.at[mine] == at])
        return {program: np.sort(np.concatenate(parts)) for program, parts in groups.items()}

    def to_come(self) -> set[Program]:
        """The programs of all evaluations that are left."""
        least = [self.at[self.which == i].min() for i in range(len(self.chains))]
        return {program for chain, at in zip(self.chains, least, strict=True) for program in chain.programs[at:]}

    @property
    def snapshot(self) -> Snapshot:
        """What there is to see."""
        steps, seeds = (np.array([getattr(chain, name) for chain in self.chains]) for name in ("steps", "seed"))
        done, carry = self.told("done"), self.carry
        return Snapshot(
            done, steps[self.which], seeds[self.which], carry.x, carry.x0_prev, carry.lost, count=len(self.at)
        )
