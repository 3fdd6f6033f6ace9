"""`--mode=evaluate`: scores images against a reference, or the samples of a trained model against its training images.

`--samples=IMAGES --reference=FILE` wants no `--config`: a folder or `.npz` file of images from anyone, and ADM's
`VIRTUAL_*.npz`, a file of `--mode=reference`, or other images. With the config of a model, its newest checkpoint draws
`evaluate.samples` samples as the `sample` section says, which the features of `evaluate` score.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

from ml_collections import ConfigDict

from flexidit_jax.common import build
from flexidit_jax.common.config import plain
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import written_aside
from flexidit_jax.evaluation.extraction import Halted
from flexidit_jax.evaluation.judge import Judge
from flexidit_jax.evaluation.requests import Requests
from flexidit_jax.evaluation.studies.scores import Scores, measure, opened
from flexidit_jax.evaluation.studies.scores_page import markdown, picture
from flexidit_jax.evaluation.study import study_folder, write_study
from flexidit_jax.experiment.dataset import say_found
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.sections import HOW
from flexidit_jax.experiment.start import trained_model
from flexidit_jax.experiment.typed import say_unread
from flexidit_jax.runs.workdir import out_folder
from flexidit_jax.sampling.schedule import text_of

FLAGS = {"out": "evaluate.out", "samples": "evaluate.samples", "reference": "evaluate.reference"}
#: where no --config is given
CONFIG = {
    "evaluate": {
        "samples": None,
        "reference": None,
        "features": {"name": "inception"},
        "metrics": None,
        "protocol": None,
        "crop": None,
        "side": None,
        "prompts": None,
        "paired": None,
        "batch": 32,
        "out": None,
    }
}
#: of what may change between two starts, the sections and keys that it reads
READS = (
    *("init_from", "evaluate", *HOW, "sample.batch", "sample.negative", "sample.first"),
    *("sample.noise", "sample.step_noise", "sample.decode", "sample.progress"),
)


def run(config: ConfigDict, workdir: Path) -> int:
    """Scores images where the config is of no model, else what the model draws."""
    return _of_model(config, workdir) if "model" in config else _of_images(config, workdir)


def check(config: ConfigDict) -> None:
    """Refuses keys and values before anything is read."""
    if "model" in config:
        build_experiment(config)
    else:
        build.call(Scores, plain(config).get("evaluate") or {}, "evaluate")


def _of_images(config: ConfigDict, workdir: Path) -> int:
    """Writes table, JSON and picture into `evaluate.out`; features are kept in `<workdir>/features`.

    Returns:
      0, or what `Halted` says.
    """
    section = build.call(Scores, plain(config).get("evaluate") or {}, "evaluate")
    folder = study_folder(section.out, workdir / "evaluation")
    asked = opened(section)
    try:
        result = measure(asked, workdir / "features")
    except Halted as halted:
        print(halted)
        return halted.status
    write_study(folder, "evaluation", result, markdown(result), {"scores": picture(result)})
    return 0


def _of_model(config: ConfigDict, workdir: Path) -> int:
    """Draws `config.evaluate.samples` samples over all classes; `evaluation.json` goes into `evaluate.out`."""
    for key in ("samples", "reference"):
        if isinstance(named := (config.get("evaluate") or {}).get(key), str):
            raise UserError(
                f"--{key}={named} is for images, which no config of a model says anything of; leave --config out, or"
                f" leave --{key} out to score what the model draws"
            )
    experiment = build_experiment(config, workdir)
    experiment.wants_dataset()
    if experiment.evaluate is None:
        raise UserError("this config has no evaluate section")
    samples = experiment.evaluate.samples
    dataset = experiment.dataset
    folder = out_folder(experiment.evaluate.out, workdir)
    *_, flex = experiment.check(dataset.source, dataset.held_out, partial(trained_model, experiment, workdir))
    say_found(dataset)
    asked = experiment.sample
    batch = min(asked.batch or samples, samples)
    meant = flex.meant(spec=asked.spec, batch=batch)
    plan = flex.plan(spec=meant, batch=batch)
    say_unread(flex, asked)
    spec = meant.settled(plan)
    requests = Requests.of(flex, dataset, samples)
    judge = Judge(dataset, experiment.codec, experiment.evaluate.features)
    images = requests.draw(flex, spec, batch=batch, **asked.others)
    score, flops = judge.score(images, requests.asked), flex.flops(spec=spec)
    result = {
        **score.record(),
        "samples": samples,
        "floor_fd": judge.floor(samples),
        "schedule": text_of(plan.schedule),
        "guide": text_of(plan.guide) if plan.guide else None,
        "flops_percent": 100 * flops.relative,
        "flops_percent_unguided": 100 * flops.relative_unguided,
        "sample": replace(asked, spec=meant).recorded(),
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
