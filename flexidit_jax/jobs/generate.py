"""`--mode=generate --num=50000 --out=DIR`: many images over all devices, for FID; stopped at any moment, it goes on."""

from __future__ import annotations

import dataclasses
import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.data_parallel import even
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress
from flexidit_jax.common.trees import fingerprint
from flexidit_jax.evaluation.requests import labels_of
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.start import trained_model
from flexidit_jax.models.build import describe
from flexidit_jax.models.conditioning.condition import negatives
from flexidit_jax.runs.binding import BINDS_IMAGES, FREE_WITHIN
from flexidit_jax.runs.image_shards import ImageShards
from flexidit_jax.runs.stop import Stop
from flexidit_jax.runs.workdir import out_folder
from flexidit_jax.sampling.plan import Plan
from flexidit_jax.sampling.spec import SampleSpec

FLAGS = {"num": "generate.num", "out": "generate.out"}
#: samples per call where `sample.batch` leaves it open
BATCH = 64


def run(config: ConfigDict, workdir: Path) -> int:
    """Draws images 0 .. `generate.num` - 1 with the words of `config.sample` into `generate.out`.

    Returns:
      0 when all are there, `STOPPED` when stopped by SIGTERM, 130 when stopped by Ctrl-C.
    """
    # ---------------------------------------------------------------- Words
    experiment = build_experiment(config)
    section = experiment.generate
    if section is None:
        raise UserError("this config has no generate section; give it one, such as config.generate = {'num': 50_000}")
    folder = out_folder(section.out, workdir / "generated")
    flex = dataclasses.replace(trained_model(experiment, workdir), devices=jax.local_device_count())
    flex.codec.check()
    classes = getattr(flex.model.conditioner, "classes", None)
    if classes is None:
        raise UserError("generate draws classes, and this model is not conditioned on any")
    spec, negative = experiment.sample.spec, experiment.sample.others["negative"]
    negatives(flex.model.conditioner, negative, 1)  # one for all
    batch = even(min(experiment.sample.batch or BATCH, section.num), flex.devices)
    size = section.shard or ImageShards.recorded(folder).get("shard") or batch
    batch = even(min(batch, size), flex.devices)
    plan = flex.plan(spec=spec, batch=batch)
    drawn = spec.settled(plan)
    flops = flex.flops(spec=drawn)

    # ---------------------------------------------------------------- The folder: what is there, what is missing
    frames, *image = flex.codec.data_shape(flex.model.latent)
    image = image if flex.model.latent[0] == 1 else [frames, *image]
    counts = {"num": section.num, "shard": size, "image": image}
    defaults = experiment.defaults | {"codec.decode_dtype": getattr(flex.codec, "dtype", None)}  # as there was no key
    shards = ImageShards(folder, counts | _manifest(flex, section.labels, negative, spec, plan), defaults)
    missing = shards.missing()
    shards.check_room(missing)
    labels = labels_of(section.labels, spec.seed, np.arange(even(section.num, size)), classes)
    todo = shards.count(missing)
    if missing and todo < section.num:
        print(f"{folder}: resuming, {section.num - todo} of {section.num} images are there")
    clock, made = time.perf_counter(), 0
    with shards.claimed():
        # ------------------------------------------------------------ Images: the next while the last are written
        with (
            Stop("finishing this shard before stopping") as stop,
            Progress(section.num, "generating", start=section.num - todo, unit="images") as bar,
            ThreadPoolExecutor(1) as writer,
        ):
            written: Future[None] | None = None
            for shard in missing:
                if stop.asked:
                    break
                numbers = shards.numbers(shard)
                first, calls = numbers.start, -(-size // batch)

                def tick(part: float = len(numbers) / calls / len(plan.evaluations)) -> None:
                    bar.note(f"{bar.rate * flops.total / 1e12:.3g} TFLOP/s")
                    bar.advance(part)

                # a whole shard even where fewer are left, so that no batch has another shape
                words = {"spec": drawn, "negative": negative, "batch": batch, "first": first, "progress": tick}
                images = flex.sample(labels[first : first + size], **words)
                if written is not None:
                    written.result()
                written = writer.submit(shards.write, shard, images[: len(numbers)])
                made += len(numbers)
            if written is not None:
                written.result()
        if made < todo:
            there = section.num - todo + made
            print(f"{folder}: stopped, {there} of {section.num} images are there; the same command goes on")
            return stop.status
        seconds = time.perf_counter() - clock

        # ------------------------------------------------------------ One array
        if missing or not shards.finished:
            shards.join(labels[: section.num])
    print(f"schedule: {plan}")
    print(f"FLOPs: {flops.total / 1e9:.3f} G per sample, {100 * flops.relative:.1f} % of every step powerful")
    print(f"seconds: {seconds:.1f} for {made} samples on {flex.devices} device(s), compilation included")
    print(f"written: {folder}/samples.npz, {section.num} images and their classes")
    return 0


def _manifest(flex: FlexiDiT, labels: str, negative: Any, spec: SampleSpec, plan: Plan) -> dict[str, Any]:
    """What the bits of an image depend on, but for rounding; JSON-ready."""
    kept = {
        part: {key: value for key, value in said.items() if key not in FREE_WITHIN[part] - BINDS_IMAGES}
        for part, said in (("model", describe(flex.model)), ("codec", dataclasses.asdict(flex.codec)))
    }
    manifest = {
        "labels": labels,
        "weights": fingerprint(flex.params)[:16],
        "plan": str(plan),
        "sample": {"negative": negative, **spec.recorded()},
        "model": kept["model"],
        "process": dataclasses.asdict(flex.process),
        "codec": kept["codec"] | {"weights": flex.codec.fingerprint()},
    }
    return json.loads(json.dumps(manifest))
