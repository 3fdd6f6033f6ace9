"""`--mode=report`: quality against compute, measured; the last thing the main job does.

Every point draws the same noise and labels. Batches are interleaved over the points, so that a
machine that changes speed changes all of them; the first batch of each point warms its programs up
and its time is not counted.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from flexidit_jax.api import FlexiDiT, load
from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress
from flexidit_jax.common.types import Patch
from flexidit_jax.jobs.parts.experiment import build_experiment
from flexidit_jax.jobs.parts.figures import quality_vs_compute, sample_grid
from flexidit_jax.jobs.parts.prose import markdown
from flexidit_jax.jobs.parts.quality import Judge, balanced_labels
from flexidit_jax.jobs.parts.workdir import check_config
from flexidit_jax.sampling.schedule import text_of, weak_first, weak_last

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "clu", "numpy", "scikit-learn")


class Point(NamedTuple):
    """One row: an order, and the words of a `sample` call."""

    order: str
    words: dict[str, Any]


def points(
    patches: Sequence[Patch],
    steps: int,
    weak_first_steps: Sequence[int],
    weak_last_steps: Sequence[int],
    fewer_steps: Sequence[int],
    guidance: Sequence[Mapping[str, Any]],
) -> list[Point]:
    """Every row of the report; guidance 1 unless it is a guidance row.

    Args:
      patches: modes, powerful first; the first and the last are mixed.
      steps: of the full run.
      weak_first_steps, weak_last_steps: numbers of weak steps.
      fewer_steps: numbers of steps, all powerful.
      guidance: dicts of `guide` and `guidance`, the conditional prediction being powerful.
    """
    powerful, weak = patches[0], patches[-1]
    rows = [
        Point(order, {"steps": steps, "schedule": text_of(make(weak, powerful, n, steps)), "guidance": 1.0})
        for order, make, counts in (
            ("weak_first", weak_first, weak_first_steps),
            ("weak_last", weak_last, weak_last_steps),
        )
        for n in counts
    ]
    rows += [
        Point("fewer_steps", {"steps": n, "schedule": text_of(((powerful, n),)), "guidance": 1.0}) for n in fewer_steps
    ]
    full = text_of(((powerful, steps),))
    rows += [Point("weak_first", {"steps": steps, "schedule": full, **row}) for row in guidance]
    return rows


def run(config: ConfigDict, workdir: Path) -> int:
    """Measures `config.report` on the newest checkpoint of `workdir` and writes `workdir/report`."""
    experiment = build_experiment(config)
    if experiment.report is None:
        raise UserError("this config has no report section")
    flex = load(workdir)
    check_config(workdir, experiment.raw)
    words = {"flex": flex, "samples": experiment.evaluate.samples, **experiment.report}
    measured = build.call(_Measurement, words, "report")
    judge = Judge(experiment.dataset, experiment.codec, experiment.evaluate.features)
    rows, images = measured.measure(judge)

    # ---------------------------------------------------------------- Everything a reader may want to check
    report = {
        "floor_fd": judge.floor(measured.samples),
        "heldout_fd": {"fd": judge.fd(judge.held_out), "samples": len(judge.held_out)},
        "classifier_accuracy": judge.classifier_accuracy(),
        "heldout_nearest": judge.nearest(judge.held_out),
        "samples": measured.samples,
        "seconds_are": f"median of {measured.batches - 1} warm batches of {measured.batch}, times {measured.batches}",
        "points": rows,
        "config": experiment.raw,
        "versions": {name: version(name) for name in PACKAGES}
        | {"python": platform.python_version(), "machine": f"{platform.machine()}, {_cores()} cores"},
    }

    # ---------------------------------------------------------------- Written aside, then moved into place
    folder, aside = workdir / "report", workdir / "report.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        (aside / "report.json").write_text(json.dumps(report, indent=2) + "\n")
        (aside / "report.md").write_text(markdown(report))
        quality_vs_compute(report).savefig(aside / "quality_vs_compute.png", dpi=120)
        budgets = [f"{row['flops_percent']:.0f} %" for row in rows[: len(measured.weak_first)]]
        sample_grid(list(zip(budgets, images)), experiment.dataset.classes).savefig(aside / "samples.png", dpi=120)
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror})") from None
    print((folder / "report.md").read_text().split("\n## ")[0])
    print(f"written: {folder}/report.md, quality_vs_compute.png, samples.png, report.json")
    return 0


class _Measurement:
    """The `report` section of a config."""

    def __init__(
        self,
        flex: FlexiDiT,
        samples: int,
        steps: int,
        batch: int,
        weak_first: Sequence[int],
        weak_last: Sequence[int],
        fewer_steps: Sequence[int],
        guidance: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        if samples % batch or samples // batch < 2:
            raise UserError(f"report.batch={batch} must divide evaluate.samples={samples} at least twice")
        self.flex, self.samples, self.batch, self.weak_first = flex, samples, batch, weak_first
        self.batches = samples // batch
        self._points = points(flex.patches, steps, weak_first, weak_last, fewer_steps, guidance)
        self._labels = balanced_labels(samples, flex.model.conditioner.classes)
        self._full = flex.flops(steps=steps, guidance=1.0).total

    def measure(self, judge: Judge) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
        """A JSON row and the images of every point."""
        parts: list[list[np.ndarray]] = [[] for _ in self._points]
        seconds: list[list[float]] = [[] for _ in self._points]
        with Progress(self.batches * len(self._points), "report") as bar:
            for begin in range(0, self.samples, self.batch):
                labels = self._labels[begin : begin + self.batch]
                for i, point in enumerate(self._points):
                    clock = time.perf_counter()
                    parts[i].append(self.flex.sample(labels, first=begin, progress=False, **point.words))
                    seconds[i].append(time.perf_counter() - clock)
                    bar.advance()
        images = [np.concatenate(part) for part in parts]
        warm = [float(np.median(times[1:])) * self.batches for times in seconds]
        rows = []
        for point, drawn, taken in zip(self._points, images, warm, strict=True):
            score = judge.score(drawn, self._labels)
            rows.append(
                {
                    "schedule": point.words["schedule"],
                    "guide": point.words.get("guide"),
                    "order": point.order,
                    "flops_percent": 100 * self.flex.flops(**point.words).total / self._full,
                    "seconds": taken,
                    "seconds_percent": 100 * taken / warm[0],
                    "fd": score.fd,
                    "accuracy": score.accuracy,
                    "guidance": point.words["guidance"],
                    "nearest": score.nearest,
                }
            )
        return rows, images


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
