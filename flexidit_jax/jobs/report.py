"""`--mode=report`: quality against compute, measured; the last thing the main job does.

Every point draws the same noise and labels. Batches are interleaved over the points, so that a
machine that changes speed changes all of them; the first batch of each point warms its programs up
and its time is not counted.
"""

from __future__ import annotations

import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.cores import cores
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import folder_written_aside
from flexidit_jax.common.progress import Progress
from flexidit_jax.jobs.parts.experiment import build_experiment
from flexidit_jax.jobs.parts.figures import quality_vs_compute, sample_grid
from flexidit_jax.jobs.parts.model import trained_model
from flexidit_jax.jobs.parts.points import Report
from flexidit_jax.jobs.parts.prose import markdown
from flexidit_jax.jobs.parts.quality import Judge, balanced_labels

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "clu", "numpy", "scikit-learn")


def run(config: ConfigDict, workdir: Path) -> int:
    """Measures `config.report` on the newest checkpoint of `workdir` and writes `workdir/report`."""
    experiment = build_experiment(config)
    if experiment.report is None:
        raise UserError("this config has no report section")
    experiment.check()
    flex = trained_model(experiment, workdir)
    judge = Judge(experiment.dataset, experiment.codec, experiment.evaluate.features)
    section = experiment.report
    batches = section.samples // section.batch
    rows, images = _measure(flex, section, judge)

    # ---------------------------------------------------------------- Everything a reader may want to check
    report = {
        "floor_fd": judge.floor(section.samples),
        "heldout_fd": {"fd": judge.fd(judge.held_out), "samples": len(judge.held_out)},
        "classifier_accuracy": judge.classifier_accuracy(),
        "heldout_nearest": judge.nearest(judge.held_out),
        "samples": section.samples,
        "seconds_are": f"median of {batches - 1} warm batches of {section.batch}, times {batches}",
        "points": rows,
        "config": experiment.raw,
        "versions": {name: version(name) for name in PACKAGES}
        | {"python": platform.python_version(), "machine": f"{platform.machine()}, {cores()} cores"},
    }

    # ---------------------------------------------------------------- Written aside, then moved into place
    folder = workdir / "report"
    with folder_written_aside(folder) as aside:
        (aside / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        (aside / "report.md").write_text(markdown(report))
        quality_vs_compute(report).savefig(aside / "quality_vs_compute.png", dpi=120)
        budgets = [f"{row['flops_percent']:.0f} %" for row in rows[: len(section.weak_first)]]
        sample_grid(list(zip(budgets, images)), experiment.dataset.classes).savefig(aside / "samples.png", dpi=120)
    print((folder / "report.md").read_text().split("\n## ")[0])
    print(f"written: {folder}/report.md, quality_vs_compute.png, samples.png, report.json")
    return 0


def _measure(flex: FlexiDiT, section: Report, judge: Judge) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """A JSON row and the images of every point."""
    points = section.points(flex.patches)
    batches = section.samples // section.batch
    labels = balanced_labels(section.samples, flex.model.conditioner.classes)
    parts: list[list[np.ndarray]] = [[] for _ in points]
    seconds: list[list[float]] = [[] for _ in points]
    with Progress(batches * len(points), "report") as bar:
        for begin in range(0, section.samples, section.batch):
            here = labels[begin : begin + section.batch]
            for i, point in enumerate(points):
                clock = time.perf_counter()
                parts[i].append(flex.sample(here, first=begin, progress=False, **point.words))
                seconds[i].append(time.perf_counter() - clock)
                bar.advance()
    images = [np.concatenate(part) for part in parts]
    warm = [float(np.median(times[1:])) * batches for times in seconds]
    full = flex.flops(**points[0].words).total
    rows = []
    for point, drawn, taken in zip(points, images, warm, strict=True):
        score = judge.score(drawn, labels)
        rows.append(
            {
                "schedule": point.words["schedule"],
                "guide": point.words.get("guide"),
                "order": point.order,
                "solver": point.words["solver"],
                "packing": point.words.get("packing"),
                "flops_percent": 100 * flex.flops(**point.words).total / full,
                "seconds": taken,
                "seconds_percent": 100 * taken / warm[0],
                "fd": score.fd,
                "accuracy": score.accuracy,
                "guidance": point.words["guidance"],
                "nearest": score.nearest,
            }
        )
    return rows, images
