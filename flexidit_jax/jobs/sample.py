"""`--mode=sample`: pictures from a run's newest checkpoint (or from `init_from`), and what they cost."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from flexidit_jax.api import FlexiDiT
from flexidit_jax.codecs.streamed import Streamed
from flexidit_jax.common.compilations import Compilations
from flexidit_jax.common.errors import UserError, together
from flexidit_jax.common.files import written_aside
from flexidit_jax.common.progress import Progress
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.start import trained_model
from flexidit_jax.experiment.texts import said, texts_of
from flexidit_jax.experiment.typed import guidance_said, say_unread
from flexidit_jax.models.conditioning.condition import negatives, size
from flexidit_jax.runs.latents_file import FILE as LATENTS
from flexidit_jax.runs.latents_file import write_latents
from flexidit_jax.runs.pictures import write_preview
from flexidit_jax.runs.workdir import out_folder
from flexidit_jax.sampling.engine import compiled_programs
from flexidit_jax.sampling.schedule import pair_text, text_of
from flexidit_jax.sampling.snapshot import NotFinite, Snapshot, gathered

#: of what may change between two starts, the sections and keys that it reads
READS = ("init_from", "sample")
FLAGS = {"out": "sample.out", "prompts": "sample.prompts"}


def run(config: ConfigDict, workdir: Path) -> int:
    """Samples `config.sample` into `sample.out`, or `workdir/samples/<schedule>_seed<n>_<digest of all words>/`.

    Raises:
      NotFinite: some of them are none; the others are written.
    """
    experiment = build_experiment(config, workdir)
    asked = experiment.sample
    decode, others = asked.others["decode"], {key: value for key, value in asked.others.items() if key != "decode"}
    if not decode and (asked.files.grid or asked.files.images):
        raise UserError("sample.decode=False draws latents, which are no pictures; of sample.files set npz alone")
    if not decode and asked.preview_every:
        raise UserError("sample.decode=False draws latents, which are no pictures; leave sample.preview_every out")
    texts = texts_of(asked.prompts, asked.labels, experiment.model.conditioner)
    wanted = [experiment.codec.check] if decode else []
    wanted += [] if texts is None else [partial(texts.check_files, experiment)]
    flex, *_ = together(partial(trained_model, experiment, workdir), *wanted)
    if texts is None:
        labels, cond = asked.labels, flex.model.conditioner.parse(asked.labels)
        negatives(flex.model.conditioner, others["negative"], size(cond))
        n = size(cond)
    else:
        texts.check(flex)
        asked, labels = replace(asked, prompts=list(texts.prompts)), texts.asked
        n = len(labels)
    n *= (each := asked.images_per_prompt)
    batch = min(asked.batch or n, n)
    meant = flex.meant(spec=asked.spec, batch=batch)
    plan = flex.plan(spec=meant, batch=batch)
    say_unread(flex, asked)
    spec = meant.settled(plan)
    record = json.dumps(replace(asked, spec=meant).recorded(), indent=2, sort_keys=True)
    name = text_of(plan.schedule).replace(":", "x").replace(",", "_")
    digest = hashlib.sha256(record.encode()).hexdigest()[:6]  # other labels or scales, another folder
    folder = out_folder(asked.out, workdir / "samples" / f"{name}_seed{spec.seed}_{digest}")

    clock, before = time.perf_counter(), compiled_programs()
    failure, streams = None, decode and hasattr(flex.codec, "pieces")
    with Compilations() as compiled:
        try:
            words = {"spec": spec, "batch": batch, "images_per_prompt": each, **others}
            if asked.preview_every is None:
                images = flex.sample(labels, decode=decode and not streams, **words)
            else:
                chain = flex.steps(labels, **words)
                made = np.asarray if streams else flex.decode
                images = gathered(_with_previews(flex, chain, asked.preview_every, folder), made)
        except NotFinite as error:
            images, failure = error.images, error
        if streams:
            write_latents(folder, images, flex.codec.fingerprint())
    seconds, programs = time.perf_counter() - clock, compiled_programs() - before

    drawn = [{"prompt": prompt} for prompt in (texts.prompts if texts else ()) for _ in range(each)]
    says = [said(prompt, i, meant, others["negative"]) for i, prompt in enumerate(drawn, others["first"])]
    shown = others.get("progress", True) and streams
    with Progress(len(images), "decoding", unit="clips", enabled=shown) as bar:
        images = Streamed(flex.codec, images, bar.advance) if streams else images
        written = asked.files.write(folder, images, failure.failed if failure else (), says)
    try:
        with written_aside(folder / "sample.json") as file:
            file.write_text(record + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror})") from None
    flops = flex.flops(spec=spec)
    pairs = ", ".join(pair_text(*pair) for pair in plan.pairs)
    if texts is None and (named := getattr(flex.model.conditioner, "said", lambda cond: "")(cond)):
        print(f"labels: {named}")
    print(f"schedule: {plan}; guidance: {guidance_said(flex, spec)}")
    print(f"FLOPs: {flops.total / 1e9:.3f} G per sample, {flops.shares}")
    later = " before they are decoded" if streams else ""
    print(f"seconds: {seconds:.1f} for {len(images)} samples{later}, compilation included")
    print(f"programs: {programs} ({pairs}); {compiled}")
    print(f"written: {folder}/{', '.join([*written, *([LATENTS] if streams else []), 'sample.json'])}")
    if failure:
        raise failure
    return 0


def _with_previews(flex: FlexiDiT, chain: Iterator[Snapshot], every: int, folder: Path) -> Iterator[Snapshot]:
    """The chain; on the way, every so many steps, a sheet of the estimates of the batch under way."""
    for old in folder.glob(f"preview_{'[0-9]' * 5}.png"):  # of an earlier start
        old.unlink()
    for number, snapshot in enumerate(chain, 1):
        if number % every == 0:
            write_preview(folder, number, flex.decode(snapshot.blanked().x0), snapshot.failed)
        yield snapshot
