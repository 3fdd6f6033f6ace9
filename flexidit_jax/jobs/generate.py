"""`--mode=generate --num=50000 --out=DIR`: many images over all devices, for FID; stopped at any moment, it goes on."""

from __future__ import annotations

import dataclasses
import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.config import plain
from flexidit_jax.common.data_parallel import even
from flexidit_jax.common.errors import UserError, together
from flexidit_jax.common.progress import Progress
from flexidit_jax.common.trees import fingerprint
from flexidit_jax.evaluation.requests import labels_of
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.sections import HOW
from flexidit_jax.experiment.start import trained_model
from flexidit_jax.experiment.typed import guidance_said, say_unread
from flexidit_jax.models.build import describe
from flexidit_jax.models.conditioning.condition import negatives
from flexidit_jax.runs.binding import BINDS_IMAGES, FREE_WITHIN
from flexidit_jax.runs.image_shards import ImageShards
from flexidit_jax.runs.stop import Stop
from flexidit_jax.runs.workdir import out_folder
from flexidit_jax.sampling.plan import Plan
from flexidit_jax.sampling.snapshot import NotFinite
from flexidit_jax.sampling.spec import SampleSpec

FLAGS = {"num": "generate.num", "out": "generate.out"}
#: samples per call where `sample.batch` leaves it open
BATCH = 64
#: of what may change between two starts, the sections and keys that it reads
READS = ("init_from", "generate", *HOW, "sample.batch", "sample.negative")


def run(config: ConfigDict, workdir: Path) -> int:
    """Draws images 0 .. `generate.num` - 1 with the words of `config.sample` into `generate.out`.

    A shard with images that became NaN or infinite is not written, and the next start tries it again; all others are.

    Returns:
      0 when all are there, `STOPPED` when stopped by SIGTERM, 130 when stopped by Ctrl-C.

    Raises:
      NotFinite: images that are none.
    """
    # ---------------------------------------------------------------- Words
    experiment = build_experiment(_going_on(config, workdir), workdir)
    section = experiment.generate
    if section is None:
        raise UserError("this config has no generate section; give it one, such as config.generate = {'num': 50_000}")
    folder = out_folder(section.out, workdir / "generated")
    flex, _ = together(partial(trained_model, experiment, workdir), experiment.codec.check)
    flex = dataclasses.replace(flex, devices=jax.local_device_count())
    classes = getattr(flex.model.conditioner, "classes", None)
    if classes is None:
        raise UserError("generate draws classes, and this model is not conditioned on any")
    spec, negative = experiment.sample.spec, experiment.sample.others["negative"]
    negatives(flex.model.conditioner, negative, 1)  # one for all
    batch = even(min(experiment.sample.batch or BATCH, section.num), flex.devices)
    size = section.shard or ImageShards.recorded(folder).get("shard") or batch
    batch = even(min(batch, size), flex.devices)
    spec = flex.meant(spec=spec, batch=batch)
    plan = flex.plan(spec=spec, batch=batch)
    say_unread(flex, experiment.sample)
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
    todo = section.num - shards.there()
    if missing and todo < section.num:
        print(f"{folder}: resuming, {section.num - todo} of {section.num} images are there")

    def in_flops(rate: float) -> str:
        return f"{rate * flops.total / 1e12:.3g} TFLOP/s"

    clock, made, held_back, lost = time.perf_counter(), 0, 0, []
    with shards.claimed():
        # ------------------------------------------------------------ Images: the next while the last are written
        with (
            Stop("finishing this shard before stopping") as stop,
            Progress(section.num, "generating", start=section.num - todo, unit="images", also=in_flops) as bar,
            ThreadPoolExecutor(1) as writer,
        ):
            written: Future[None] | None = None
            for shard in missing:
                if stop.asked:
                    break
                numbers, kept = shards.numbers(shard), shards.held(shard)  # those that are there stay as they are
                first, end = numbers.start + min(kept, size - batch) // batch * batch, numbers.start + size
                new, calls = slice(numbers.start + kept - first, numbers.stop - first), -(-(end - first) // batch)
                count = len(numbers) - kept
                tick = partial(bar.advance, count / calls / len(plan.evaluations))

                # to the end of the shard even where fewer are left, so that no batch has another shape
                words = {"spec": drawn, "negative": negative, "batch": batch, "first": first, "progress": tick}
                try:
                    images = flex.sample(labels[first:end], **words)
                except NotFinite as error:
                    if bad := [row for row in error.rows if numbers.start + kept <= row[0] < numbers.stop]:
                        bar.say(f"images {numbers.start + kept}..{numbers.stop - 1} are not written: {error}")
                        lost += bad
                        held_back += count
                        continue
                    images = error.images  # only what is there already, or fills the shard up, is lost
                if written is not None:
                    written.result()
                written = writer.submit(shards.write, shard, images[new])
                made += count
            if written is not None:
                written.result()
        there = section.num - todo + made
        if made + held_back < todo:
            print(f"{folder}: stopped, {there} of {section.num} images are there; the same command goes on")
            return stop.status
        if lost:
            print(f"{folder}: {there} of {section.num} images are there; the same command tries the others again")
            raise NotFinite(lost, section.num)
        seconds = time.perf_counter() - clock

        # ------------------------------------------------------------ One array
        if missing or not shards.finished:
            shards.join(labels[: section.num])
    print(f"schedule: {plan}; guidance: {guidance_said(flex, drawn)}")
    print(f"FLOPs: {flops.total / 1e9:.3f} G per sample, {flops.shares}")
    print(f"seconds: {seconds:.1f} for {made} samples on {flex.devices} device(s), compilation included")
    print(f"written: {folder}/samples.npz, {section.num} images and their classes")
    return 0


def _going_on(config: ConfigDict, workdir: Path) -> ConfigDict:
    """The config; where it leaves the seed to be drawn, with the one that was drawn for the images there."""
    raw = plain(config)
    sample, section = raw.get("sample") or {}, raw.get("generate") or {}
    if not (isinstance(sample, dict) and isinstance(section, dict)) or sample.get("seed", 0) is not None:
        return config  # refused where it is built, or nothing is left open
    folder = Path(str(section.get("out") or workdir / "generated")).expanduser()
    recorded = ImageShards.recorded(folder).get("sample")
    if not isinstance(recorded, dict) or "seed" not in recorded:
        return config
    print(f"{folder}: going on with seed {recorded['seed']}, which was drawn for the images there")
    return ConfigDict(raw | {"sample": sample | {"seed": recorded["seed"]}})


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
