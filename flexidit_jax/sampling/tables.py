"""Modulations made before the steps that read them: a row for each (time, condition) that samples come to next.

A third of a DiT's weights makes modulations, which depend on (time, condition) alone. So a step need not read them:
one product makes the rows of many steps to come, and a sample picks its own in each. Samples of one condition share
rows, and all that have none share one. The number of rows is fixed, so that a mode has one program for them.

With large batches most of a table would go into one step, and a product in the step costs nothing beside those with
tokens: see `hoisted`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from flexidit_jax.common.types import Patch
from flexidit_jax.diffusion.steps import Steps
from flexidit_jax.models.conditioning.condition import NULL, Condition, Given, size
from flexidit_jax.models.modulation import Modulations
from flexidit_jax.sampling.trajectory import Program, Trajectory

#: samples of a batch up to which modulations are made before the steps
MOST = 16
#: of a table; a step reads at most two of every sample
ROWS = 4 * MOST

TIME = Steps._fields.index("t")
#: a time, and the number of a condition
Key = tuple[float, int]


class Table(NamedTuple):
    """Modulations of one mode.

    Attributes:
      rows: [L, ROWS, 6, d] and [ROWS, 2, d].
      place: the row of each (time, condition).
    """

    rows: Modulations
    place: dict[Key, int]


class Told(NamedTuple):
    """What modulations are made of, of the conditions of B samples and of what guides them.

    Attributes:
      rows: [3 B]: of their own, their guide's where a mode guides itself, and where a weaker mode guides.
      numbers: int [3, B]: the first of `rows` that is the same.
    """

    rows: Given
    numbers: np.ndarray

    @classmethod
    def of(
        cls, cond: Condition, guides: Sequence[Condition], modulating: Callable[[Condition], Given] = lambda cond: cond
    ) -> Told:
        """From conditions on the host; `modulating` says what modulations are made of them."""
        rows = {key: np.concatenate([part[key] for part in (cond, *guides)]) for key in cond}
        made = modulating(rows)

        def same(i: int) -> bytes:
            if isinstance(made, dict) and made[NULL][i]:
                return b""
            return b"".join(leaf[i].tobytes() for leaf in jax.tree.leaves(made))

        first: dict[bytes, int] = {}
        numbers = [first.setdefault(same(i), i) for i in range(size(rows))]
        return cls(made, np.array(numbers).reshape(3, -1))


def hoisted(batch: int) -> bool:
    """Whether the steps of a batch read tables, and no weights of modulations."""
    return batch <= MOST


def reads(program: Program) -> list[tuple[Patch, int]]:
    """The modes that a program evaluates, and which of a sample's three conditions (`Told`) each is told."""
    cond, guide = program.cond_patch, program.guide_patch
    return [(cond, 0)] if guide is None else [(cond, 0), (guide, 1 if guide == cond else 2)]


def asked_of(program: Program) -> list[tuple[Patch, tuple[int, ...]]]:
    """Every mode that a program evaluates, with all of the conditions that it is told, as they come in `reads`."""
    return [(patch, tuple(which for mode, which in reads(program) if mode == patch)) for patch in program.modes]


def ready(
    tables: Mapping[Patch, Table],
    make: Callable[[Patch, np.ndarray, np.ndarray], Modulations],
    program: Program,
    chains: Sequence[Trajectory],
    at: Sequence[int],
    numbers: np.ndarray,
    samples: Sequence[int],
) -> tuple[dict[Patch, Table], np.ndarray]:
    """Tables with all that an evaluation of `samples` reads, and the rows it reads, int32 [samples, predictions].

    Args:
      tables: those there are. One that lacks a row is made anew, for what comes next.
      make: modulations of a mode at times [ROWS], of the conditions of these numbers [ROWS].
      chains, at: of all samples of the batch, and how many evaluations each has made.
      numbers: see `Told`.
    """
    asked = [(patch, [_key(chains[i], at[i], numbers[which, i]) for i in samples]) for patch, which in reads(program)]
    found = dict(tables)
    for patch in program.modes:
        wanted = [key for mode, keys in asked if mode == patch for key in keys]
        if patch not in found or any(key not in found[patch].place for key in wanted):
            place: dict[Key, int] = {}
            for key in itertools.chain(wanted, _to_come(patch, chains, at, numbers)):
                if key not in place and len(place) == ROWS:
                    break
                place.setdefault(key, len(place))
            keys = [*place, *[wanted[0]] * (ROWS - len(place))]
            rows = make(patch, np.array([t for t, _ in keys], np.float32), np.array([n for _, n in keys], np.int32))
            found[patch] = Table(rows, place)
    pick = [[found[patch].place[key] for key in keys] for patch, keys in asked]  # all tables are made: none moves a row
    return found, np.array(pick, np.int32).T


def _to_come(patch: Patch, chains: Sequence[Trajectory], at: Sequence[int], numbers: np.ndarray) -> Iterator[Key]:
    """What all samples ask of a mode from where they are on, step by step."""
    for ahead in range(max(len(chain.programs) - made for chain, made in zip(chains, at, strict=True))):
        for i, chain in enumerate(chains):
            if at[i] + ahead < len(chain.programs):
                for mode, which in reads(chain.programs[at[i] + ahead]):
                    if mode == patch:
                        yield _key(chain, at[i] + ahead, numbers[which, i])


def _key(chain: Trajectory, at: int, number: int) -> Key:
    return float(chain.numbers[at, TIME]), int(number)
