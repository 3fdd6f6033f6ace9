"""`--mode=report`: quality against compute, measured; the last thing the main job does."""

from __future__ import annotations

import platform
from functools import partial
from importlib.metadata import version
from pathlib import Path

from ml_collections import ConfigDict

from flexidit_jax.common.cores import cores
from flexidit_jax.common.errors import UserError
from flexidit_jax.evaluation.judge import Judge
from flexidit_jax.evaluation.requests import Requests
from flexidit_jax.evaluation.studies.front_page import guidance_front
from flexidit_jax.evaluation.studies.quality_page import markdown, quality_vs_compute, sample_grid
from flexidit_jax.evaluation.studies.quality_vs_compute import measure
from flexidit_jax.evaluation.study import study_folder, write_study
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.start import trained_model

FLAGS = {"out": "report.out"}
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "clu", "numpy", "scikit-learn")
#: of what may change between two starts, the sections and keys that it reads
READS = ("init_from", "evaluate", "report")


def run(config: ConfigDict, workdir: Path) -> int:
    """Measures `config.report` on the newest checkpoint of `workdir` and writes `report.out`, or `workdir/report`."""
    experiment = build_experiment(config, workdir)
    experiment.wants_dataset()
    if experiment.report is None:
        raise UserError("this config has no report section")
    folder = study_folder(experiment.report.out, workdir / "report")
    _, flex = experiment.check(experiment.dataset.source, partial(trained_model, experiment, workdir))
    requests = Requests.of(flex, experiment.dataset, experiment.report.samples)
    judge = Judge(experiment.dataset, experiment.codec, experiment.evaluate.features)
    report, images = measure(flex, experiment.report, judge, requests)
    report |= {
        "config": experiment.raw,
        "versions": {name: version(name) for name in PACKAGES}
        | {"python": platform.python_version(), "machine": f"{platform.machine()}, {cores()} cores"},
    }
    budgets = [f"{row['flops_percent']:.0f} %" for row in report["points"][: len(experiment.report.weak_first)]]
    figures = {
        "quality_vs_compute": quality_vs_compute(report),
        "samples": sample_grid(list(zip(budgets, images)), *requests.titles(experiment.dataset)),
    }
    if experiment.report.scales:
        figures["guidance_front"] = guidance_front(report)
    write_study(folder, "report", report, markdown(report), figures)
    return 0
