"""Which samples the report draws: one point a row of its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Patch
from flexidit_jax.sampling.schedule import Schedule, constant, text_of, weak_first, weak_last


class Point(NamedTuple):
    """One row: an order, and the words of a `sample` call."""

    order: str
    words: dict[str, Any]


@dataclass(frozen=True)
class Report:
    """The `report` section; guidance is 1 unless it is a guidance row.

    Attributes:
      samples: drawn for every point.
      steps: of the full run.
      batch: samples a call; divides `samples` at least twice, since the first batch only warms up.
      weak_first, weak_last: numbers of weak steps; weak_first begins with 0, the full run.
      fewer_steps: numbers of steps, all powerful.
      solver: of all rows but those of `solvers`; see `FlexiDiT.sample`.
      solvers: dicts of `solver`, `steps` and `weak`, the number of weak steps, which come first.
      guidance: dicts of `guide`, `guidance` and, where two lengths meet, `packing`; the conditional
        prediction is powerful.
    """

    samples: int
    steps: int
    batch: int
    weak_first: Sequence[int]
    weak_last: Sequence[int] = ()
    fewer_steps: Sequence[int] = ()
    guidance: Sequence[Mapping[str, Any]] = ()
    solver: str | Mapping[str, Any] = "ddpm"
    solvers: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        if self.batch < 1 or self.samples % self.batch or self.samples // self.batch < 2:
            raise UserError(f"report.batch={self.batch} must divide evaluate.samples={self.samples} at least twice")
        if not self.weak_first or self.weak_first[0] != 0:
            raise UserError(f"report.weak_first must begin with 0, the full run, got {tuple(self.weak_first)}")
        counts = [*self.weak_first, *self.weak_last, *self.fewer_steps]
        if min(counts) < 0 or max(counts) > self.steps or 0 in self.fewer_steps:
            raise UserError(f"report: numbers of steps must lie in 0..report.steps={self.steps}, got {counts}")
        for row in self.guidance:
            if set(row) - {"packing"} != {"guide", "guidance"}:
                raise UserError(f"a row of report.guidance holds guide, guidance and packing, got {', '.join(row)}")
        for row in self.solvers:
            if set(row) != {"solver", "steps", "weak"} or not 0 <= row["weak"] <= row["steps"]:
                raise UserError(f"a row of report.solvers holds solver, steps and weak, at most steps, got {row}")

    def points(self, patches: Sequence[Patch]) -> list[Point]:
        """Every row, for a model of these modes (powerful first; the first and the last are mixed)."""
        powerful, weak = patches[0], patches[-1]

        def row(order: str, schedule: Schedule, **more: Any) -> Point:
            steps = sum(count for _, count in schedule)
            words = {"steps": steps, "schedule": text_of(schedule), "guidance": 1.0, "solver": self.solver}
            return Point(order, {**words, **more})

        rows = [row("weak_first", weak_first(weak, powerful, n, self.steps)) for n in self.weak_first]
        rows += [row("weak_last", weak_last(weak, powerful, n, self.steps)) for n in self.weak_last]
        rows += [row("fewer_steps", constant(powerful, n)) for n in self.fewer_steps]
        for words in self.solvers:
            schedule = weak_first(weak, powerful, words["weak"], words["steps"])
            rows.append(row("weak_first", schedule, solver=words["solver"]))
        return rows + [row("weak_first", constant(powerful, self.steps), **words) for words in self.guidance]
