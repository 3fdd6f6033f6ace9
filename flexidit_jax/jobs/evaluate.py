"""`--mode=evaluate`: scores the samples of `config.sample` against the training images."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import written_aside
from flexidit_jax.evaluation.judge import Judge
from flexidit_jax.evaluation.requests import balanced_labels
from flexidit_jax.experiment.dataset import say_found
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.sections import HOW
from flexidit_jax.experiment.start import trained_model
from flexidit_jax.experiment.typed import say_unread
from flexidit_jax.runs.workdir import out_folder
from flexidit_jax.sampling.schedule import text_of

FLAGS = {"out": "evaluate.out"}
#: of what may change between two starts, the sections and keys that it reads
READS = (
    *("init_from", "evaluate", *HOW, "sample.batch", "sample.negative", "sample.first"),
    *("sample.noise", "sample.step_noise", "sample.decode", "sample.progress"),
)


def run(config: ConfigDict, workdir: Path) -> int:
    """Draws `config.evaluate.samples` samples over all classes; `evaluation.json` goes into `evaluate.out`."""
    experiment = build_experiment(config, workdir)
    if experiment.evaluate is None:
        raise UserError("this config has no evaluate section")
    samples = experiment.evaluate.samples
    dataset = experiment.dataset
    folder = out_folder(experiment.evaluate.out, workdir)
    *_, flex = experiment.check(dataset.source, dataset.held_out, partial(trained_model, experiment, workdir))
    say_found(dataset)
    asked = experiment.sample
    batch = min(asked.batch or samples, samples)
    plan = flex.plan(spec=asked.spec, batch=batch)
    say_unread(flex, asked)
    spec = asked.spec.settled(plan)
    judge = Judge(experiment.dataset, experiment.codec, experiment.evaluate.features)
    labels = balanced_labels(samples, experiment.dataset.classes)
    images = flex.sample(labels, spec=spec, batch=batch, **asked.others)
    score, flops = judge.score(images, labels), flex.flops(spec=spec)
    result = {
        **score.record(),
        "samples": samples,
        "floor_fd": judge.floor(samples),
        "schedule": text_of(plan.schedule),
        "guide": text_of(plan.guide) if plan.guide else None,
        "flops_percent": 100 * flops.relative,
        "flops_percent_unguided": 100 * flops.relative_unguided,
        "sample": asked.recorded(),
    }
    file = folder / "evaluation.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with written_aside(file) as unfinished:
            unfinished.write_text(json.dumps(result, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write {file} ({error.strerror})") from None
    print(
        f"{samples} samples, schedule {result['schedule']} ({flops.shares}):"
        f" FD {score.fd:.3f} +- {score.distance.error:.3f} (floor {result['floor_fd']:.3f}),"
        f" accuracy {score.accuracy:.3f}"
    )
    print(f"written: {file}")
    return 0
