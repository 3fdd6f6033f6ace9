"""`--mode=search`: schedules made for this model, beside weak-first at the same budget.

Measures how far each weaker mode's prediction is from the powerful one's at every step, picks
for each budget the schedule of least total error and a guidance scale, and scores it against weak-first
with the same noise. Without an `evaluate` section nothing can be scored: it writes the schedules alone.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from flexidit_jax.common.errors import UserError
from flexidit_jax.evaluation.judge import Judge
from flexidit_jax.evaluation.studies.schedule_search import Subject, check_budgets, measure
from flexidit_jax.evaluation.studies.search_page import gap_per_step, markdown, pareto
from flexidit_jax.evaluation.study import study_folder, write_study
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.sections import HOW
from flexidit_jax.experiment.start import trained_model
from flexidit_jax.models.conditioning.condition import negatives
from flexidit_jax.sampling.takes_spec import CHOOSING

FLAGS = {"out": "search.out"}
#: of what may change between two starts, the sections and keys that it reads
READS = (
    *("init_from", "evaluate", "search", "sample.batch", "sample.first", "sample.negative"),
    *(key for key in HOW if key not in ("sample.seed", *(f"sample.{key}" for key in CHOOSING))),
)


def run(config: ConfigDict, workdir: Path) -> int:
    """Searches for `config.search` on the newest checkpoint of `workdir`; writes `search.out`, or `workdir/search`."""
    experiment = build_experiment(config, workdir)
    experiment.wants_dataset()
    section, asked = experiment.search, experiment.sample
    if section is None:
        raise UserError("this config has no search section")
    if asked.spec.guide is not None:
        raise UserError(f"search wants sample.guide=None, each mode guiding itself, got {asked.spec.guide!r}")
    if getattr(experiment.dataset, "classes", None) is None:
        raise UserError("search draws samples of classes, and this dataset has none; --mode=report draws captions")
    _, flex = experiment.check(experiment.dataset.source, partial(trained_model, experiment, workdir))
    negatives(flex.model.conditioner, asked.others["negative"], 1)  # one for all
    folder = study_folder(section.out, workdir / "search")
    spec = replace(asked.spec, **dict.fromkeys(CHOOSING))
    check_budgets(flex, spec, section)
    judge = experiment.evaluate and Judge(experiment.dataset, experiment.codec, experiment.evaluate.features)
    subject = Subject(
        flex=flex,
        spec=spec,
        batch=asked.batch,
        first=asked.others["first"],
        negative=asked.others["negative"],
        dataset=experiment.dataset,
        codec=experiment.codec,
        seed=experiment.seed,
        judge=judge,
    )
    result = measure(subject, section) | {"config": experiment.raw}
    write_study(folder, "search", result, markdown(result), {"gaps": gap_per_step(result), "pareto": pareto(result)})
    return 0
