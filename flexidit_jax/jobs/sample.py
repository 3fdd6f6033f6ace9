"""`--mode=sample`: pictures from a run's newest checkpoint (or from `init_from`), and what they cost."""

from __future__ import annotations

import hashlib
import json
import time
from pathlib import Path

from ml_collections import ConfigDict

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import written_aside
from flexidit_jax.jobs.parts.compilation import Compilations
from flexidit_jax.jobs.parts.experiment import build_experiment
from flexidit_jax.jobs.parts.model import trained_model
from flexidit_jax.jobs.parts.settled import settled
from flexidit_jax.jobs.parts.words import plan_words
from flexidit_jax.jobs.parts.workdir import check_writable
from flexidit_jax.sampling.schedule import text_of


def run(config: ConfigDict, workdir: Path) -> int:
    """Samples `config.sample` and writes into `workdir/samples/<schedule>_seed<n>_<digest of all words>/`."""
    experiment = build_experiment(config)
    flex = trained_model(experiment, workdir)
    words = plan_words(experiment.sample)
    n = len(flex.model.conditioner.parse(experiment.sample["labels"]))
    words["batch"] = min(experiment.sample.get("batch") or n, n)
    plan = flex.plan(**words)
    asked = json.dumps(experiment.sample, indent=2, sort_keys=True)
    name = text_of(plan.schedule).replace(":", "x").replace(",", "_")
    digest = hashlib.sha256(asked.encode()).hexdigest()[:6]  # other labels or scales, another folder
    folder = workdir / "samples" / f"{name}_seed{experiment.sample.get('seed', 0)}_{digest}"
    check_writable(folder)

    clock = time.perf_counter()
    with Compilations() as compiled:
        images = flex.sample(**settled(experiment.sample, plan))
    seconds = time.perf_counter() - clock

    written = experiment.files.write(folder, images)
    try:
        with written_aside(folder / "sample.json") as file:
            file.write_text(asked + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror})") from None
    flops = flex.flops(**settled(words, plan))
    print(f"schedule: {plan}")
    print(f"FLOPs: {flops.total / 1e9:.3f} G per sample, {100 * flops.relative:.1f} % of every step powerful")
    print(f"seconds: {seconds:.1f} for {len(images)} samples, compilation included")
    print(f"programs: {compiled.of_steps(plan)}; {compiled}")
    print(f"written: {folder}/{', '.join([*written, 'sample.json'])}")
    return 0
