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
from flexidit_jax.evaluation.judge_folder import judge_folder
from flexidit_jax.evaluation.requests import labels_of
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.sections import HOW, IMAGE_FILES
from flexidit_jax.experiment.start import trained_model
from flexidit_jax.experiment.texts import said, texts_of
from flexidit_jax.experiment.typed import guidance_said, say_unread
from flexidit_jax.models.build import describe
from flexidit_jax.models.conditioning.condition import negatives
from flexidit_jax.runs.binding import BINDS_IMAGES, FREE_WITHIN
from flexidit_jax.runs.image_shards import ImageShards
from flexidit_jax.runs.picture_shards import PictureShards
from flexidit_jax.runs.pictures import write_says
from flexidit_jax.runs.stop import Stop
from flexidit_jax.runs.workdir import out_folder
from flexidit_jax.sampling.plan import Plan
from flexidit_jax.sampling.snapshot import NotFinite
from flexidit_jax.sampling.spec import SampleSpec

FLAGS = {"num": "generate.num", "out": "generate.out", "prompts": "sample.prompts"}
#: samples per call where `sample.batch` leaves it open
BATCH = 64
#: images of classes, where `generate.num` does
NUM = 50_000
#: of what may change between two starts, the sections and keys that it reads
READS = (
    *("init_from", "generate", "encode", *HOW),
    *("sample.prompts", "sample.images_per_prompt", "sample.batch", "sample.negative", "sample.files"),
)


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
    texts = texts_of(experiment.sample.prompts, None, experiment.model.conditioner)
    wanted = [experiment.codec.check, *([] if texts is None else [partial(texts.check_files, experiment)])]
    flex, *_ = together(partial(trained_model, experiment, workdir), *wanted)
    flex = dataclasses.replace(flex, devices=jax.local_device_count())
    kind = section.labels if texts is None else "balanced"
    negative, each = experiment.sample.others["negative"], experiment.sample.images_per_prompt
    if texts is None:
        negatives(flex.model.conditioner, negative, 1)  # one for all
        classes = getattr(flex.model.conditioner, "classes", None)
    else:
        texts = texts.found(folder / "texts")
        texts.check(flex)
        classes = len(texts.prompts)
    if classes is None:
        raise UserError("generate draws of classes or of prompts, and this model is conditioned on neither")
    num = section.num or (NUM if texts is None else each * classes)
    batch = even(min(experiment.sample.batch or BATCH, num), flex.devices)
    size = section.shard or ImageShards.recorded(folder).get("shard") or batch
    batch = even(min(batch, size), flex.devices)
    spec = flex.meant(spec=experiment.sample.spec, batch=batch)
    plan = flex.plan(spec=spec, batch=batch)
    say_unread(flex, experiment.sample)
    drawn = spec.settled(plan)
    flops = flex.flops(spec=drawn)

    # ---------------------------------------------------------------- The folder: what is there, what is missing
    frames, *image = flex.codec.data_shape(flex.of_size([spec])[0].model.latent)
    image = image if flex.model.latent[0] == 1 else [frames, *image]
    words = {"num": num, "shard": size, "image": image}
    defaults = experiment.defaults | {"codec.decode_dtype": getattr(flex.codec, "dtype", None)}  # as there was no key
    words |= _manifest(flex, kind if texts is None else texts.name, negative, spec, plan)
    words |= ({} if texts is None else {"text": texts.made(flex)}) | ({} if each == 1 else {"images_per_prompt": each})
    words |= {} if section.files == "npz" else {"files": section.files}
    labels = labels_of(kind, spec.seed, np.arange(even(num, size)) // each, classes)

    def says(number: int) -> dict[str, Any]:
        index = int(labels[number])
        prompt = {"label": index} if texts is None else {"prompt": texts.prompts[index]}
        return said(prompt, number, spec, negative)

    made_as = ImageShards if section.files == "npz" else partial(PictureShards, says=says)
    if section.files not in IMAGE_FILES:
        judged = judge_folder(section.files, () if texts is None else texts.read_from, each, num, image)
        made_as = partial(made_as, name=judged.name, beside=judged.beside(num), fps=experiment.sample.files.fps)
    shards = made_as(folder, words, defaults=defaults)
    missing = shards.missing()
    shards.check_room(missing)
    todo = num - shards.there()
    if missing and todo < num:
        print(f"{folder}: resuming, {num - todo} of {num} images are there")

    def in_flops(rate: float) -> str:
        return f"{rate * flops.total / 1e12:.3g} TFLOP/s"

    clock, made, held_back, lost = time.perf_counter(), 0, 0, []
    with shards.claimed(), Stop("finishing this shard before stopping") as stop:
        away = negative
        if texts is not None and missing:
            away = flex.features([negative])[0] if isinstance(negative, str) else negative
            texts = texts.read(flex, folder / "texts", experiment.encode, stop)
        # ------------------------------------------------------------ Images: the next while the last are written
        with (
            Progress(num, "generating", start=num - todo, unit="images", also=in_flops) as bar,
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
                words = {"spec": drawn, "negative": away, "batch": batch, "first": first, "progress": tick}
                try:
                    asked = labels[first:end]
                    images = flex.sample(asked if texts is None else [texts.kept[i] for i in asked], **words)
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
        there = num - todo + made
        if made + held_back < todo:
            print(f"{folder}: stopped, {there} of {num} images are there; the same command goes on")
            return stop.status
        if lost:
            print(f"{folder}: {there} of {num} images are there; the same command tries the others again")
            raise NotFinite(lost, num)
        seconds = time.perf_counter() - clock

        # ------------------------------------------------------------ One array
        if missing or not shards.finished:
            shards.join(labels[:num])
            if texts is not None and section.files == "npz":
                write_says(folder, ((number, says(number)) for number in range(num)), None)
    print(f"schedule: {plan}; guidance: {guidance_said(flex, drawn)}")
    print(f"FLOPs: {flops.total / 1e9:.3f} G per sample, {flops.shares}")
    print(f"seconds: {seconds:.1f} for {made} samples on {flex.devices} device(s), compilation included")
    where = "samples.npz, {} images and their classes" if section.files == "npz" else "images, {} pictures"
    print(f"written: {folder}/{where.format(num)}")
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
