"""Quality against compute: which samples the report draws, one point a row of its table, and what they score.

Every point draws the same noise and labels; with several seeds, points that are compared draw those of every seed.
Batches are interleaved over the points, so that a machine that changes speed changes all of them; the first batch of
each point warms its programs up and its time is not counted.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import mul
from typing import Any, NamedTuple

import numpy as np

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress
from flexidit_jax.common.types import Patch
from flexidit_jax.evaluation.judge import Judge, Score
from flexidit_jax.evaluation.requests import balanced_labels
from flexidit_jax.metrics.estimate import difference
from flexidit_jax.sampling.schedule import Schedule, constant, text_of, weak_first, weak_last
from flexidit_jax.sampling.spec import SampleSpec


class Point(NamedTuple):
    """One row: an order, how its samples are drawn, and the packing where the row names one."""

    order: str
    spec: SampleSpec
    packing: str | None


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
      seeds: of the samples of points that differ in their schedule alone; two or more tell how far a score can be
        trusted. All other points draw the first.
      out: the folder, `<workdir>/report` by default; also `--out`.
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
    seeds: Sequence[int] = (0,)
    out: str | None = None

    def __post_init__(self) -> None:
        if self.batch < 1 or self.samples % self.batch or self.samples // self.batch < 2:
            raise UserError(f"report.batch={self.batch} must divide evaluate.samples={self.samples} at least twice")
        if not self.weak_first or self.weak_first[0] != 0:
            raise UserError(f"report.weak_first must begin with 0, the full run, got {tuple(self.weak_first)}")
        counts = [*self.weak_first, *self.weak_last, *self.fewer_steps]
        if min(counts) < 0 or max(counts) > self.steps or 0 in self.fewer_steps:
            raise UserError(f"report: numbers of steps must lie in 0..report.steps={self.steps}, got {counts}")
        seeds = self.seeds
        if not isinstance(seeds, Sequence) or not seeds or len(set(seeds)) < len(seeds):
            raise UserError(f"report.seeds must be a list of different numbers, got {seeds!r}")
        if not all(isinstance(seed, int) and 0 <= seed < 2**31 for seed in seeds):
            raise UserError(f"report.seeds must lie in 0..2^31-1, got {seeds!r}")
        for key in ("guidance", "solvers"):
            rows = getattr(self, key)
            if not isinstance(rows, Sequence) or not all(isinstance(row, Mapping) for row in rows):
                raise UserError(f"report.{key} must be a list of sections, got {rows!r}")
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
            said = {"steps": steps, "schedule": text_of(schedule), "guidance": 1.0, "solver": self.solver}
            said["seed"] = self.seeds[0]
            try:
                return Point(order, SampleSpec(**said | more), more.get("packing"))
            except UserError as error:
                raise UserError(f"report: {error}") from None

        rows = [row("weak_first", weak_first(weak, powerful, n, self.steps)) for n in self.weak_first]
        rows += [row("weak_last", weak_last(weak, powerful, n, self.steps)) for n in self.weak_last]
        rows += [row("fewer_steps", constant(powerful, n)) for n in self.fewer_steps]
        for words in self.solvers:
            schedule = weak_first(weak, powerful, words["weak"], words["steps"])
            rows.append(row("weak_first", schedule, solver=words["solver"]))
        return rows + [row("weak_first", constant(powerful, self.steps), **words) for words in self.guidance]


def measure(flex: FlexiDiT, section: Report, judge: Judge) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The report, JSON-ready, and the images of every point."""
    batches = section.samples // section.batch
    rows, images = _points(flex, section, judge)
    report = {
        "floor_fd": judge.floor(section.samples),
        "heldout_fd": {"fd": judge.fd(judge.held_out), "samples": len(judge.held_out)},
        "classifier_accuracy": judge.classifier_accuracy(),
        "heldout_nearest": judge.nearest(judge.held_out),
        "samples": section.samples,
        "seeds": list(section.seeds),
        "seconds_are": f"median of {batches - 1} warm batches of {section.batch}, times {batches}",
        "points": rows,
    }
    return report, images


def _points(flex: FlexiDiT, section: Report, judge: Judge) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    points = section.points(flex.patches)
    batches = section.samples // section.batch
    labels = balanced_labels(section.samples, flex.model.conditioner.classes)
    parts: list[list[np.ndarray]] = [[] for _ in points]
    seconds: list[list[float]] = [[] for _ in points]
    seeds = [section.seeds if _compared(point, points[0]) else section.seeds[:1] for point in points]
    work = [section.batch * flex.flops(spec=point.spec).total / 1e9 for point in points]  # of a batch
    with Progress(batches * sum(map(mul, work, map(len, seeds))), "report", unit="GFLOP") as bar:
        steps = [partial(bar.advance, batch / point.spec.steps) for batch, point in zip(work, points)]
        for begin in range(0, section.samples, section.batch):
            here = labels[begin : begin + section.batch]
            for i, point in enumerate(points):
                clock = time.perf_counter()
                parts[i].append(flex.sample(here, spec=point.spec, first=begin, progress=steps[i]))
                seconds[i].append(time.perf_counter() - clock)
        others: list[list[np.ndarray]] = [[] for _ in points]  # of the other seeds
        for i, point in enumerate(points):
            for seed in seeds[i][1:]:
                spec = replace(point.spec, seed=seed)
                others[i].append(flex.sample(labels, spec=spec, batch=section.batch, progress=steps[i]))
    images = [np.concatenate(part) for part in parts]
    warm = [float(np.median(times[1:])) * batches for times in seconds]
    full = flex.flops(spec=points[0].spec).total
    rows = []
    all_scores = [[judge.score(drawn, labels) for drawn in (first, *more)] for first, more in zip(images, others)]
    for (order, spec, packing), scores, taken in zip(points, all_scores, warm, strict=True):
        flops = flex.flops(spec=spec)
        rows.append(
            {
                "schedule": spec.schedule,
                "guide": spec.guide,
                "order": order,
                "solver": spec.solver_section,
                "packing": packing,
                "flops_percent": 100 * flops.total / full,
                "flops_percent_guided": 100 * flops.total / full * flops.relative / flops.relative_unguided,
                "seconds": taken,
                "seconds_percent": 100 * taken / warm[0],
                "fd": float(np.mean([score.fd for score in scores])),
                "fd_by_seed": [score.fd for score in scores],
                "fd_error": _of_mean([score.distance.error for score in scores]),
                "against_full": _against(scores, all_scores[0]),
                "accuracy": float(np.mean([score.accuracy for score in scores])),
                "guidance": spec.guidance,
                "nearest": float(np.mean([score.nearest for score in scores])),
            }
        )
    return rows, images


def _against(scores: Sequence[Score], full: Sequence[Score]) -> dict[str, float]:
    """How much more a point scores than the full run of the same noise and labels, over the seeds of both."""
    less = [difference(ours.distance, theirs.distance) for ours, theirs in zip(scores, full)]
    return {"fd": float(np.mean([one.value for one in less])), "error": _of_mean([one.error for one in less])}


def _of_mean(errors: Sequence[float]) -> float:
    """The standard error of the mean of independent numbers with these."""
    return float(np.linalg.norm(errors) / len(errors))


def _compared(point: Point, full: Point) -> bool:
    """Whether a point differs from the full run in its schedule alone."""
    return (point.spec.guidance, point.spec.solver) == (1, full.spec.solver)
