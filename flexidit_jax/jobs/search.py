"""`--mode=search`: schedules made for this model, beside weak-first at the same budget.

Measures how far each weaker mode's prediction is from the powerful one's at every step, picks
for each budget the schedule of least total error and a guidance scale, and scores it against weak-first
with the same noise. Without an `evaluate` section nothing can be scored: it writes the schedules alone.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import folder_written_aside
from flexidit_jax.common.progress import Progress
from flexidit_jax.common.types import short_patch_name
from flexidit_jax.diffusion.solvers import make_table
from flexidit_jax.diffusion.steps import Steps
from flexidit_jax.jobs.parts.experiment import Experiment, build_experiment
from flexidit_jax.jobs.parts.figures import gap_per_step, pareto
from flexidit_jax.jobs.parts.latents import latents_of, stacked
from flexidit_jax.jobs.parts.model import trained_model
from flexidit_jax.jobs.parts.quality import Judge, Score, balanced_labels
from flexidit_jax.jobs.parts.search_prose import markdown
from flexidit_jax.jobs.parts.words import plan_words
from flexidit_jax.jobs.parts.workdir import check_writable
from flexidit_jax.sampling import gaps
from flexidit_jax.sampling.schedule import constant, text_of
from flexidit_jax.sampling.search import best_schedules

Words = dict[str, Any]
#: of the words that a config may leave out
DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(FlexiDiT.sample).parameters.items()
    if parameter.default is not parameter.empty
}


class Measured(NamedTuple):
    """At one guidance scale: gap and error of every mode at every step, [modes, steps], and the calls of each step."""

    gap: np.ndarray
    error: np.ndarray
    calls: np.ndarray


def run(config: ConfigDict, workdir: Path) -> int:
    """Searches for `config.search` on the newest checkpoint of `workdir` and writes `workdir/search`."""
    experiment = build_experiment(config)
    section = experiment.search
    if section is None:
        raise UserError("this config has no search section")
    if experiment.sample.get("guide") is not None:
        raise UserError(f"search wants sample.guide=None, each mode guiding itself, got {experiment.sample['guide']!r}")
    experiment.check()
    flex = trained_model(experiment, workdir)
    if len(flex.patches) < 2:
        raise UserError(f"there is nothing to search: the model has one mode, {short_patch_name(flex.patches[0])}")
    folder = workdir / "search"
    check_writable(folder)
    words = {**DEFAULTS, **experiment.sample, "budget": None, "latency_ms": None, "schedule": None}
    steps, solver = words["steps"], words["solver"]
    table = make_table(solver, flex.process, steps)

    for budget in section.budgets:
        flex.plan(**plan_words({**words, "budget": budget}))  # refused before the work begins
    judge = experiment.evaluate and Judge(experiment.dataset, experiment.codec, experiment.evaluate.features)

    # ---------------------------------------------------------------- The gap at every scale
    measured = _measure(flex, experiment, words, table)
    modes = [text_of(constant(patch, steps)) for patch in flex.patches]
    costs = [flex.flops(steps, mode, guidance=1.0, solver=solver).total for mode in modes]
    criterion = {scale: at.error if section.weight == "moved" else at.gap for scale, at in measured.items()}

    # ---------------------------------------------------------------- Schedules, at every scale
    schedules: dict[tuple[float | None, str], dict[float, str]] = {}
    for scale, at in measured.items():
        said = {**words, "guidance": scale}
        schedules.setdefault((None, "full"), {})[scale] = modes[0]
        budgets = section.budgets
        found = best_schedules(flex.patches, criterion[scale], costs, at.calls, budgets, section.max_segments)
        for budget, best in zip(budgets, found, strict=True):
            first = flex.plan(**plan_words({**said, "budget": budget})).schedule
            schedules.setdefault((budget, "searched"), {})[scale] = text_of(best.schedule)
            schedules.setdefault((budget, "weak_first"), {})[scale] = text_of(first)

    # ---------------------------------------------------------------- Scales, then scores, with the same noise
    score = _scorer(flex, judge, experiment, words)
    rows = []
    for (budget, kind), by_scale in schedules.items():
        scale, tried = section.guidance[0], {}
        if len(by_scale) > 1:
            apart = max(section.seeds) + 1
            tried = {s: score(text, s, apart, section.scale_samples).fd for s, text in by_scale.items()}
            scale = min(tried, key=tried.get)
        row = _row(flex, words, budget, kind, by_scale[scale], scale, criterion[scale])
        row["fd_by_scale"] = {str(s): fd for s, fd in tried.items()}
        if judge:
            scores = [score(by_scale[scale], scale, seed, section.samples) for seed in section.seeds]
            row |= {"fd": [s.fd for s in scores], "accuracy": [s.accuracy for s in scores]}
        rows.append(row)
        print(f"{kind.replace('_', ' ')} at {budget or 1:g}: {row['schedule']}, guidance {scale}", flush=True)

    # ---------------------------------------------------------------- Written aside, then moved into place
    result = {
        "floor_fd": judge and judge.floor(section.samples),
        "samples": section.samples if judge else None,
        "seeds": list(section.seeds),
        "records": min(section.records, len(experiment.dataset.source())),
        "weight": section.weight,
        "modes": [short_patch_name(patch) for patch in flex.patches],
        "times": table.times.tolist(),
        "gaps": {str(scale): at.gap.tolist() for scale, at in measured.items()},
        "errors": {str(scale): at.error.tolist() for scale, at in measured.items()},
        "rows": rows,
        "config": experiment.raw,
    }
    with folder_written_aside(folder) as aside:
        (aside / "search.json").write_text(json.dumps(result, indent=2) + "\n")
        (aside / "search.md").write_text(markdown(result))
        gap_per_step(result).savefig(aside / "gaps.png", dpi=120)
        pareto(result).savefig(aside / "pareto.png", dpi=120)
    print((folder / "search.md").read_text().split("\n## ")[0])
    print(f"written: {folder}/search.md, gaps.png, pareto.png, search.json")
    return 0


def _measure(flex: FlexiDiT, experiment: Experiment, words: Words, table: Steps) -> dict[float, Measured]:
    """By guidance scale."""
    section = experiment.search
    source = experiment.dataset.source()
    n = min(section.records, len(source))
    size = min(words["batch"] or n, n)
    chosen = np.random.default_rng(experiment.seed).permutation(len(source))[:n]
    batches = []
    for begin in range(0, len(chosen), size):
        records = [source[int(i)] for i in chosen[begin : begin + size]]
        latents = latents_of(experiment.codec, stacked(records))
        batches.append((latents, [record[flex.model.conditioner.field] for record in records]))
    measured = {}
    for scale in section.guidance:
        plan = flex.plan(**plan_words({**words, "guidance": scale}))
        runs = [segment for segment in plan.segments for _ in range(segment.start, segment.stop)]
        with Progress(len(batches) * len(table.t), f"gap at guidance {scale}") as bar:
            found = gaps.measure(
                flex.predict,
                flex.patches,
                flex.process,
                table,
                batches,
                [run.scale for run in runs],
                words["guidance_channels"],
                experiment.seed,
                bar.advance,
            )
        calls = np.array(plan.evaluations) * [sum(patch is not None for patch in run.pair) for run in runs]
        measured[scale] = Measured(gaps.mean_gaps(found, table), gaps.errors(found, table), calls)
    return measured


def _scorer(
    flex: FlexiDiT, judge: Judge | None, experiment: Experiment, words: Words
) -> Callable[[str, float, int, int], Score]:
    """(schedule, scale, seed, samples) -> Score; what was drawn once is not drawn again."""

    @cache
    def score(schedule: str, scale: float, seed: int, samples: int) -> Score:
        labels = balanced_labels(samples, experiment.dataset.classes)
        said = {**words, "schedule": schedule, "guidance": scale, "seed": seed, "labels": labels, "progress": False}
        return judge.score(flex.sample(**said), labels)

    return score


def _row(
    flex: FlexiDiT, words: Words, budget: float | None, kind: str, schedule: str, scale: float, criterion: np.ndarray
) -> dict[str, Any]:
    said = plan_words({**words, "schedule": schedule, "guidance": scale})
    flops, plan = flex.flops(**said), flex.plan(**said)
    modes = [flex.patches.index(patch) for patch, count in plan.schedule for _ in range(count)]
    return {
        "budget": budget,
        "kind": kind,
        "schedule": schedule,
        "guidance": scale,
        "gflops": flops.total / 1e9,
        "flops_percent": 100 * flops.relative,
        "predicted": float(criterion[modes, np.arange(len(modes))].sum()),
    }
