"""Quality against compute: which samples the report draws, one point a row of its table, and what they score.

Every point draws the same noise and labels, or captions; with several seeds, points that are compared draw those of
every seed. Guided by itself at several scales, every budget also has a front of distance against accuracy.
Batches are interleaved over the points, so that a machine that changes speed changes all of them; the first batch of
each point warms its programs up and its time is not counted.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter, mul
from typing import Any, NamedTuple

import numpy as np

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress
from flexidit_jax.common.types import Patch
from flexidit_jax.evaluation.judge import Judge, Score
from flexidit_jax.evaluation.reading import Images, joined
from flexidit_jax.evaluation.requests import Requests
from flexidit_jax.metrics.estimate import Estimate, difference
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
      scales: of guidance, at each of which the schedules of `weak_first` are drawn again, each mode guiding itself.
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
    scales: Sequence[float] = ()
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
        scales = self.scales if isinstance(self.scales, Sequence) and not isinstance(self.scales, str) else [None]
        if not all(isinstance(scale, (int, float)) and 1 < scale < math.inf for scale in scales):
            raise UserError(f"report.scales must be a list of numbers above 1, got {self.scales!r}")
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
        for scale in self.scales:
            front = [weak_first(weak, powerful, n, self.steps) for n in self.weak_first]
            rows += [row("weak_first", schedule, guidance=float(scale)) for schedule in front]
        return rows + [row("weak_first", constant(powerful, self.steps), **words) for words in self.guidance]


def measure(flex: FlexiDiT, section: Report, judge: Judge, requests: Requests) -> tuple[dict[str, Any], list[Images]]:
    """The report, JSON-ready, and the images of every point."""
    batches = section.samples // section.batch
    rows, images = _points(flex, section, judge, requests)
    compared = int(judge.reading.seen(requests.asked).sum())
    report = {
        "floor_fd": judge.floor(compared),
        "heldout_fd": {"fd": judge.fd(judge.held_out), "samples": len(judge.held_out)},
        "classifier_accuracy": judge.classifier_accuracy(),
        "heldout_nearest": judge.nearest(judge.held_out),
        "samples": section.samples,
        "seeds": list(section.seeds),
        **judge.reading.said(requests.asked),
        "seconds_are": f"median of {batches - 1} warm batches of {section.batch}, times {batches}",
        "points": rows,
    }
    return report, images


def _points(
    flex: FlexiDiT, section: Report, judge: Judge, requests: Requests
) -> tuple[list[dict[str, Any]], list[Images]]:
    points = section.points(flex.patches)
    batches = section.samples // section.batch
    parts: list[list[Images]] = [[] for _ in points]
    seconds: list[list[float]] = [[] for _ in points]
    seeds = [section.seeds if _compared(point, points[0]) else section.seeds[:1] for point in points]
    work = [section.batch * flex.flops(spec=point.spec).total / 1e9 for point in points]  # of a batch
    begins = range(0, section.samples, section.batch)
    with Progress(batches * sum(map(mul, work, map(len, seeds))), "report", unit="GFLOP") as bar:

        def draw(point: Point, begin: int, **words: Any) -> Images:
            spec, rows = replace(point.spec, **words), slice(begin, begin + section.batch)
            step = flex.flops(spec=spec).total / 1e9 / spec.steps  # of an image
            return requests.draw(flex, spec, rows, progress=lambda images: bar.advance(images * step))

        for begin in begins:
            for i, point in enumerate(points):
                clock = time.perf_counter()
                parts[i].append(draw(point, begin))
                seconds[i].append(time.perf_counter() - clock)
        drawn = [[joined(part)] for part in parts]  # of a point, by seed
        for i, point in enumerate(points):
            for seed in seeds[i][1:]:
                drawn[i].append(joined([draw(point, begin, seed=seed) for begin in begins]))
    warm = [float(np.median(times[1:])) * batches for times in seconds]
    all_scores = [[judge.score(images, requests.asked) for images in of_point] for of_point in drawn]
    full = flex.flops(spec=points[0].spec).total
    rows = []
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
                **_of_captions(scores),
                "guidance": spec.guidance,
                "nearest": float(np.mean([score.nearest for score in scores])),
            }
        )
    return rows, [of_point[0] for of_point in drawn]


def _of_captions(scores: Sequence[Score]) -> dict[str, float]:
    """How often all words of captions are right, with errors; of labels nothing."""
    if scores[0].unseen is None:
        return {}
    unseen = [score.unseen for score in scores]
    return {
        "accuracy_error": _of_mean([score.right.error for score in scores]),
        "accuracy_unseen": float(np.mean([one.value for one in unseen])),
        "accuracy_unseen_error": _of_mean([one.error for one in unseen]),
    }


def _against(scores: Sequence[Score], full: Sequence[Score]) -> dict[str, float]:
    """How much more a point scores than the full run of the same noise and labels, over the seeds of both."""

    def more(of: Callable[[Score], Estimate]) -> tuple[float, float]:
        less = [difference(of(ours), of(theirs)) for ours, theirs in zip(scores, full)]
        return float(np.mean([one.value for one in less])), _of_mean([one.error for one in less])

    found = dict(zip(("fd", "error"), more(attrgetter("distance"))))
    if scores[0].unseen is not None:
        found |= zip(("accuracy", "accuracy_error"), more(attrgetter("right")))
        found |= zip(("accuracy_unseen", "accuracy_unseen_error"), more(attrgetter("unseen")))
    return found


def _of_mean(errors: Sequence[float]) -> float:
    """The standard error of the mean of independent numbers with these."""
    return float(np.linalg.norm(errors) / len(errors))


def _compared(point: Point, full: Point) -> bool:
    """Whether a point differs from the full run in its schedule alone."""
    return (point.spec.guidance, point.spec.solver) == (1, full.spec.solver)
