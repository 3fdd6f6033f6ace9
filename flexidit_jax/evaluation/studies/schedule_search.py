"""Schedules made for a model, beside weak-first at the same budget.

Measures how far each weaker mode's prediction is from the powerful one's at every step, picks for each budget the
schedule of least total error and a guidance scale, and scores it against weak-first with the same noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from flexidit_jax.api import FlexiDiT
from flexidit_jax.codecs.latents import latents_of, stacked
from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress
from flexidit_jax.common.types import short_patch_name
from flexidit_jax.diffusion.steps import Steps
from flexidit_jax.evaluation.judge import Judge, Score
from flexidit_jax.evaluation.requests import labels_for
from flexidit_jax.models.conditioning.condition import negatives, of_records
from flexidit_jax.sampling import mode_gap
from flexidit_jax.sampling.schedule import constant, text_of
from flexidit_jax.sampling.search import best_schedules
from flexidit_jax.sampling.spec import SampleSpec

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Search:
    """The `search` section; solver, steps and the rest of the words are those of `sample`.

    Attributes:
      budgets: shares of the FLOPs of running every call powerful.
      max_segments: the most stretches a schedule may have.
      guidance: scales to choose from for every schedule, by the Frechet distance of `scale_samples`
        samples of a seed that is not scored; by default that of `sample` alone.
      scale_samples: drawn for every scale that is tried, where `guidance` has several.
      samples: scored for every schedule and seed; by default as many as `evaluate` draws.
      seeds: of the scored samples; two or more tell how far the scores can be trusted.
      records: of the training data, on which the gap is measured.
      weight: "moved" minimises the error that a gap leaves in the sample (`sampling.mode_gap`), "none" the gap itself.
      out: the folder, `<workdir>/search` by default; also `--out`.
    """

    budgets: Sequence[float]
    max_segments: int = 3
    guidance: Sequence[float] | None = None
    scale_samples: int = 500
    samples: int | None = None
    seeds: Sequence[int] = (0, 1)
    records: int = 256
    weight: str = "moved"
    out: str | None = None

    def __post_init__(self) -> None:
        build.positive("search", max_segments=self.max_segments, records=self.records)
        build.positive("search", scale_samples=self.scale_samples, samples=self.samples or 1)
        for key in ("budgets", "guidance", "seeds"):
            values = getattr(self, key)
            listed = isinstance(values, Sequence) and not isinstance(values, str)
            if not listed or not values or len(set(values)) < len(values):
                raise UserError(f"search.{key} must be a list of different numbers, got {values!r}")
        if not all(isinstance(seed, int) and 0 <= seed < 2**31 - 1 for seed in self.seeds):
            raise UserError(f"search.seeds must lie in 0..2^31-2, got {self.seeds!r}")
        for budget in self.budgets:
            if not 0 < budget <= 1:
                raise UserError(f"search.budgets must lie in (0, 1], got {budget!r}")
        if self.weight not in ("moved", "none"):
            raise UserError(f"search.weight must be one of moved, none, got {self.weight!r}")


def build_search(section: Mapping[str, Any], spec: SampleSpec, samples: int | None) -> Search:
    """The section, completed by those of `sample` and `evaluate` (its samples; None without one).

    Raises:
      UserError: a key or value that will not do, or scales that nothing can choose from.
    """
    own = {key: value for key, value in section.items() if value is not None}
    search = build.call(Search, {"samples": samples, "guidance": (spec.guidance,), **own}, "search")
    if len(search.guidance) > 1 and samples is None:
        raise UserError("config key 'evaluate' is missing; search.guidance chooses its scale by scores")
    return search


class Subject(NamedTuple):
    """What is searched for.

    Attributes:
      flex: the model.
      spec: of `sample`: solver, steps and the rest; without schedule, budget and latency.
      batch, first, negative: of `FlexiDiT.sample`; one negative for all.
      dataset, codec: whose training records the gap is measured on.
      seed: which of them.
      judge: None where nothing is scored.
    """

    flex: FlexiDiT
    spec: SampleSpec
    batch: int | None
    first: int
    negative: Any
    dataset: Any
    codec: Any
    seed: int
    judge: Judge | None


class Work(NamedTuple):
    """What a search computes, in 10^9 FLOPs; known before it begins, since a searched schedule costs its budget.

    Attributes:
      gap: of all records, by guidance scale.
      trial: of the samples that a scale is tried with, by budget (None: all powerful) and scale.
      score: of the samples of a seed, by budget; the mean over the scales that may be chosen.
      total: of all rows.
    """

    gap: dict[float, float]
    trial: dict[tuple[float | None, float], float]
    score: dict[float | None, float]
    total: float

    @classmethod
    def of(cls, subject: Subject, section: Search) -> Work:
        """That of `measure`."""
        flex, scales, budgets = subject.flex, section.guidance, (None, *section.budgets)
        modes = [text_of(constant(patch, subject.spec.steps)) for patch in flex.patches]
        records = min(section.records, len(subject.dataset.source()))

        def cost(count: int, scale: float, **words: Any) -> float:
            return count * flex.flops(spec=replace(subject.spec, guidance=scale, **words)).total / 1e9

        gap = {scale: sum(cost(records, scale, schedule=mode) for mode in modes) for scale in scales}
        tried, scored = section.scale_samples * (len(scales) > 1), section.samples if subject.judge else 0
        trial = {(budget, scale): cost(tried, scale, budget=budget) for budget in budgets for scale in scales}
        score = {budget: float(np.mean([cost(scored, scale, budget=budget) for scale in scales])) for budget in budgets}

        def row(budget: float | None) -> float:
            return sum(trial[budget, scale] for scale in scales) + len(section.seeds) * score[budget]

        total = sum(gap.values()) + row(None) + 2 * sum(map(row, section.budgets))
        return cls(gap, trial, score, total)


class Measured(NamedTuple):
    """At one guidance scale: gap and error of every mode at every step, [modes, steps], and the calls of each step."""

    gap: np.ndarray
    error: np.ndarray
    calls: np.ndarray


def check_budgets(flex: FlexiDiT, spec: SampleSpec, section: Search) -> None:
    """Refuses, before long work, a model of one mode and budgets that it cannot meet.

    Raises:
      UserError: see `FlexiDiT.plan`.
    """
    if len(flex.patches) < 2:
        raise UserError(f"there is nothing to search: the model has one mode, {short_patch_name(flex.patches[0])}")
    for budget in section.budgets:
        flex.plan(spec=replace(spec, budget=budget))


def measure(subject: Subject, section: Search) -> dict[str, Any]:
    """Gaps, schedules and scores, JSON-ready; a line is said for every row."""
    work = Work.of(subject, section)
    with Progress(work.total, "search", unit="GFLOP") as bar:
        return _measured(subject, section, work, bar)


def _measured(subject: Subject, section: Search, work: Work, bar: Progress) -> dict[str, Any]:
    flex, spec, judge = subject.flex, subject.spec, subject.judge
    table = spec.table(flex.process)
    measured = _gaps(subject, section, table, work, bar)
    criterion = {scale: at.error if section.weight == "moved" else at.gap for scale, at in measured.items()}
    schedules = _schedules(flex, spec, section, measured, criterion)

    score = _scorer(subject, bar)
    rows = []
    for (budget, kind), by_scale in schedules.items():  # every row with the same noise
        scale, tried = section.guidance[0], {}
        if len(by_scale) > 1:
            apart = max(section.seeds) + 1
            words = apart, section.scale_samples
            tried = {s: score(text, s, *words, work.trial[budget, s]).fd for s, text in by_scale.items()}
            scale = min(tried, key=tried.get)
        row = _row(flex, replace(spec, schedule=by_scale[scale], guidance=scale), budget, kind, criterion[scale])
        row["fd_by_scale"] = {str(s): fd for s, fd in tried.items()}
        if judge:
            words = section.samples, work.score[budget]
            scores = [score(by_scale[scale], scale, seed, *words) for seed in section.seeds]
            row |= {"fd": [s.fd for s in scores], "accuracy": [s.accuracy for s in scores]}
        rows.append(row)
        bar.say(f"{kind.replace('_', ' ')} at {budget or 1:g}: {row['schedule']}, guidance {scale}")
    return {
        "floor_fd": judge and judge.floor(section.samples),
        "samples": section.samples if judge else None,
        "seeds": list(section.seeds),
        "records": min(section.records, len(subject.dataset.source())),
        "weight": section.weight,
        "modes": [short_patch_name(patch) for patch in flex.patches],
        "times": table.times.tolist(),
        "gaps": {str(scale): at.gap.tolist() for scale, at in measured.items()},
        "errors": {str(scale): at.error.tolist() for scale, at in measured.items()},
        "rows": rows,
    }


def _gaps(subject: Subject, section: Search, table: Steps, work: Work, bar: Progress) -> dict[float, Measured]:
    """By guidance scale."""
    flex, source = subject.flex, subject.dataset.source()
    n = min(section.records, len(source))
    size = min(subject.batch or n, n)
    chosen = np.random.default_rng(subject.seed).permutation(len(source))[:n]
    batches = []
    for begin in range(0, len(chosen), size):
        records = stacked([source[int(i)] for i in chosen[begin : begin + size]])
        batches.append((latents_of(subject.codec, records), of_records(flex.model.conditioner, records)))
    measured = {}
    for scale in section.guidance:
        plan = flex.plan(spec=replace(subject.spec, guidance=scale))
        runs = [segment for segment in plan.segments for _ in range(segment.start, segment.stop)]
        found = mode_gap.measure(
            flex.predict,
            flex.patches,
            flex.process,
            table,
            batches,
            [run.scale for run in runs],
            subject.spec.guidance_channels,
            subject.seed,
            negatives(flex.model.conditioner, subject.negative, 1),
            partial(bar.advance, work.gap[scale] / len(batches) / len(table.t)),
        )
        calls = np.array(plan.evaluations) * [sum(patch is not None for patch in run.pair) for run in runs]
        measured[scale] = Measured(mode_gap.mean_gaps(found, table), mode_gap.errors(found, table), calls)
    return measured


def _schedules(
    flex: FlexiDiT,
    spec: SampleSpec,
    section: Search,
    measured: Mapping[float, Measured],
    criterion: Mapping[float, np.ndarray],
) -> dict[tuple[float | None, str], dict[float, str]]:
    """By (budget, kind), and within by guidance scale."""
    modes = [text_of(constant(patch, spec.steps)) for patch in flex.patches]
    costs = [flex.flops(spec=replace(spec, schedule=mode, guidance=1.0)).total for mode in modes]
    schedules: dict[tuple[float | None, str], dict[float, str]] = {}
    for scale, at in measured.items():
        schedules.setdefault((None, "full"), {})[scale] = modes[0]
        budgets = section.budgets
        found = best_schedules(flex.patches, criterion[scale], costs, at.calls, budgets, section.max_segments)
        for budget, best in zip(budgets, found, strict=True):
            first = flex.plan(spec=replace(spec, guidance=scale, budget=budget)).schedule
            schedules.setdefault((budget, "searched"), {})[scale] = text_of(best.schedule)
            schedules.setdefault((budget, "weak_first"), {})[scale] = text_of(first)
    return schedules


def _scorer(subject: Subject, bar: Progress) -> Callable[[str, float, int, int, float], Score]:
    """(schedule, scale, seed, samples, work) -> Score; what was drawn once is not drawn again."""
    known: dict[tuple[str, float, int, int], Score] = {}

    def score(schedule: str, scale: float, seed: int, samples: int, work: float) -> Score:
        asked = schedule, scale, seed, samples
        if asked in known:
            bar.advance(work)
            return known[asked]
        labels = labels_for(subject.dataset, samples)
        spec = replace(subject.spec, schedule=schedule, guidance=scale, seed=seed)
        steps = spec.steps * -(-samples // min(subject.batch or samples, samples))
        where = {name: getattr(subject, name) for name in ("batch", "first", "negative")}
        drawn = subject.flex.sample(labels, spec=spec, **where, progress=partial(bar.advance, work / steps))
        known[asked] = subject.judge.score(drawn, labels)
        return known[asked]

    return score


def _row(flex: FlexiDiT, spec: SampleSpec, budget: float | None, kind: str, criterion: np.ndarray) -> dict[str, Any]:
    flops, plan = flex.flops(spec=spec), flex.plan(spec=spec)
    modes = [flex.patches.index(patch) for patch, count in plan.schedule for _ in range(count)]
    return {
        "budget": budget,
        "kind": kind,
        "schedule": spec.schedule,
        "guidance": spec.guidance,
        "gflops": flops.total / 1e9,
        "flops_percent": 100 * flops.relative,
        "flops_percent_unguided": 100 * flops.relative_unguided,
        "predicted": float(criterion[modes, np.arange(len(modes))].sum()),
    }


def noise(pairs: Sequence[tuple[Row, Row]]) -> float | None:
    """By how much the FD of a searched row less that of weak-first varies between seeds.

    Both draw the same noise, so this is far less than an FD varies. Standard deviation, pooled over the pairs that
    differ; None with one seed, or where none differ.
    """
    differences = np.array([np.subtract(found["fd"], first["fd"]) for found, first in pairs if not same(found, first)])
    if differences.size == 0 or differences.shape[1] < 2:
        return None
    return float(np.sqrt(differences.var(axis=1, ddof=1).mean()))


def margin(deviation: float, seeds: int) -> float:
    """How far two means over the seeds must be apart to count: three standard errors of their difference."""
    return 3 * deviation / np.sqrt(seeds)


def same(found: Row, first: Row) -> bool:
    """Whether two rows drew the same samples."""
    return (found["schedule"], found["guidance"]) == (first["schedule"], first["guidance"])


def verdict(found: Row, first: Row, deviation: float | None) -> str:
    """What the search earned over weak-first: `same`, `better`, `worse`, `within noise` or `unknown`."""
    if same(found, first):
        return "same"
    if deviation is None:
        return "unknown"
    difference = np.mean(found["fd"]) - np.mean(first["fd"])
    if abs(difference) <= margin(deviation, len(found["fd"])):
        return "within noise"
    return "better" if difference < 0 else "worse"
