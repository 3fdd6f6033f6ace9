"""`--mode=sample`: pictures from a run's newest checkpoint (or from `init_from`), and what they cost."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.compilations import Compilations
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import written_aside
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.start import trained_model
from flexidit_jax.models.conditioning.condition import size
from flexidit_jax.runs.pictures import write_preview
from flexidit_jax.runs.workdir import out_folder
from flexidit_jax.sampling.engine import compiled_programs
from flexidit_jax.sampling.sampler import Snapshot
from flexidit_jax.sampling.schedule import pair_text, text_of

FLAGS = {"out": "sample.out"}


def run(config: ConfigDict, workdir: Path) -> int:
    """Samples `config.sample` into `sample.out`, or `workdir/samples/<schedule>_seed<n>_<digest of all words>/`."""
    experiment = build_experiment(config)
    asked = experiment.sample
    decode, others = asked.others["decode"], {key: value for key, value in asked.others.items() if key != "decode"}
    if not decode and (asked.files.grid or asked.files.images):
        raise UserError("sample.decode=False draws latents, which are no pictures; of sample.files set npz alone")
    if not decode and asked.preview_every:
        raise UserError("sample.decode=False draws latents, which are no pictures; leave sample.preview_every out")
    flex = trained_model(experiment, workdir)
    n = size(flex.model.conditioner.parse(asked.labels))
    batch = min(asked.batch or n, n)
    plan = flex.plan(spec=asked.spec, batch=batch)
    spec = asked.spec.settled(plan)
    record = json.dumps(asked.recorded(), indent=2, sort_keys=True)
    name = text_of(plan.schedule).replace(":", "x").replace(",", "_")
    digest = hashlib.sha256(record.encode()).hexdigest()[:6]  # other labels or scales, another folder
    folder = out_folder(asked.out, workdir / "samples" / f"{name}_seed{spec.seed}_{digest}")

    clock, before = time.perf_counter(), compiled_programs()
    with Compilations() as compiled:
        if asked.preview_every is None:
            images = flex.sample(asked.labels, spec=spec, batch=batch, decode=decode, **others)
        else:
            chain = flex.steps(asked.labels, spec=spec, batch=batch, **others)
            images = _with_previews(flex, chain, asked.preview_every, folder)
    seconds, programs = time.perf_counter() - clock, compiled_programs() - before

    written = asked.files.write(folder, images)
    try:
        with written_aside(folder / "sample.json") as file:
            file.write_text(record + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror})") from None
    flops = flex.flops(spec=spec)
    pairs = ", ".join(pair_text(*pair) for pair in plan.pairs)
    print(f"schedule: {plan}")
    print(f"FLOPs: {flops.total / 1e9:.3f} G per sample, {100 * flops.relative:.1f} % of every step powerful")
    print(f"seconds: {seconds:.1f} for {len(images)} samples, compilation included")
    print(f"programs: {programs} ({pairs}); {compiled}")
    print(f"written: {folder}/{', '.join([*written, 'sample.json'])}")
    return 0


def _with_previews(flex: FlexiDiT, chain: Iterator[Snapshot], every: int, folder: Path) -> np.ndarray:
    """All images; on the way, every so many steps, a sheet of the estimates of the batch under way."""
    finished = []
    for old in folder.glob("preview_*.png"):  # of an earlier start
        old.unlink()
    for number, snapshot in enumerate(chain, 1):
        if number % every == 0:
            write_preview(folder, number, flex.decode(snapshot.x0))
        if snapshot.finished:
            finished.append(flex.decode(snapshot.x))
    return np.concatenate(finished)
