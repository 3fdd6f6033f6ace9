"""`--mode=encode --out=DIR`: latents of the whole dataset, once; stopped at any moment, it goes on.

Training on them (`data.latents`) runs no encoder and reads no pictures. With `--prompts=FILE` features of texts.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from flexidit_jax.codecs.latents import stacked
from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.cluster.messages import gathered
from flexidit_jax.common.data_parallel import even, local_mesh, split
from flexidit_jax.common.errors import UserError, together
from flexidit_jax.common.files import folder_named
from flexidit_jax.common.progress import Progress, warnings_said
from flexidit_jax.data.latent_writer import LatentShards
from flexidit_jax.data.latents import FLIPPED, HELD_OUT, TRAIN, layout
from flexidit_jax.data.latents import Dataset as Latents
from flexidit_jax.data.read_ahead import read_ahead
from flexidit_jax.experiment.dataset import say_found
from flexidit_jax.experiment.experiment import Experiment, build_experiment
from flexidit_jax.experiment.sections import Encoding
from flexidit_jax.experiment.texts import encode_texts
from flexidit_jax.runs.shards import of_host
from flexidit_jax.runs.stop import SharedStop
from flexidit_jax.runs.workdir import out_folder

FLAGS = {"out": "encode.out", "prompts": "sample.prompts"}
SEVERAL_PROCESSES = True  # it may be started as one of them, each taking shards of its own
#: seconds that a process waits for the shards of the others
PATIENCE = 7 * 24 * 3600
logger = logging.getLogger(__name__)
#: of what may change between two starts, the sections and keys that it reads
READS = ("encode", "sample.prompts")


def run(config: ConfigDict, workdir: Path) -> int:
    """Writes the posteriors of the config's dataset under its codec into `encode.out`.

    Returns:
      0 when all are there, `STOPPED` when stopped by SIGTERM, 130 when stopped by Ctrl-C.
    """
    # ---------------------------------------------------------------- What is encoded, and whereto
    experiment = build_experiment(config, workdir)
    if experiment.sample.prompts is not None:
        return encode_texts(experiment, workdir)
    experiment.wants_dataset()
    section, codec = experiment.encode, experiment.codec
    if not hasattr(codec, "moments"):
        name = experiment.raw["codec"]["name"]
        raise UserError(f"codec {name!r} has no posterior to keep; encode is for codecs that draw, such as 'sd_vae'")
    dataset, home = experiment.dataset, workdir / "latents"
    if isinstance(dataset, Latents):
        dataset, home = dataset.of, folder_named(dataset.path, "dataset.path")
    folder = out_folder(section.out, home)
    wanted = {TRAIN: dataset.source} | ({HELD_OUT: dataset.held_out} if section.held_out else {})
    sources = dict(zip(wanted, together(*wanted.values(), codec.check), strict=False))

    # ---------------------------------------------------------------- The folder: what is there, what is missing
    made = experiment.origin
    defaults = experiment.origin_defaults | {"names": getattr(dataset, "names", None)}  # once they were not recorded
    parts = {
        name: LatentShards(folder / name, _words(experiment, dataset, source, name) | made, defaults)
        for name, source in sources.items()
    }
    host, hosts = jax.process_index(), jax.process_count()
    say_found(dataset)
    missing, unchecked, made = {}, 0, 0
    with SharedStop("finishing this shard before stopping") as stop:
        for name, shards in parts.items():
            missing[name] = shards.missing()  # of all hosts: they fill one disk
            there = of_host(sorted({*shards.all} - {*missing[name]}), host, hosts)
            damaged, skipped = _check(shards, there, stop)
            missing[name], unchecked = sorted(missing[name] + damaged), unchecked + skipped
        images = sum(shards.count(missing[name]) for name, shards in parts.items())
        needed = sum(shards.size(missing[name]) for name, shards in parts.items())
        smaller = "" if section.dtype == "float16" else " or encode.dtype=float16"
        parts[TRAIN].check_space(needed, f"latents of {images} images", smaller)

        # ------------------------------------------------------------ Encoding
        own = {name: of_host(missing[name], host, hosts) for name in parts}
        left, total = sum(shards.count(own[name]) for name, shards in parts.items()), sum(map(len, sources.values()))
        for name, shards in parts.items():
            if not stop.asked:
                made += _encode(codec, sources[name], shards, own[name], section, (host, hosts), stop)
        told = gathered("the end of encoding", (left - made, unchecked, made), PATIENCE)  # whoever is done listens
        left, unchecked, made = map(sum, zip(*told, strict=True))
        if left or unchecked:
            known = (
                f"{total - left - unchecked} of {total} images are there{f', {unchecked} unchecked' * (unchecked > 0)}"
            )
            print(f"{folder}: stopped, {known}; the same command goes on")
            return stop.status
    sizes = (f"{len(sources[name])} images of {shards.dtype.itemsize} bytes" for name, shards in parts.items())
    print(f"{'written' if made else 'all there already'}: {folder}, {' and held out '.join(sizes)}")
    return 0


def _words(experiment: Experiment, dataset: Any, source: Sequence[Any], part: str) -> dict[str, Any]:
    """What is recorded of a part beside its origin."""
    section = experiment.encode
    if not len(source):
        raise UserError("there is nothing to encode: the dataset is empty")
    others = {key: value for key, value in source[0].items() if key != "x"}
    for key, value in others.items():
        if np.asarray(value).dtype.kind not in "biuf":
            raise UserError(f"encode keeps numbers beside latents; {key!r} of the dataset's records is none")
    flipped = hasattr(dataset, "augment") if section.flipped is None else section.flipped
    fingerprint = {"images": dataset.fingerprint(part == HELD_OUT)} if hasattr(dataset, "fingerprint") else {}
    flipped = flipped and part == TRAIN  # nothing augments what is held out
    return {
        "num": len(source),
        **fingerprint,
        "shard": section.shard,
        "dtype": section.dtype,
        "shape": list(dataset.shape),
        "classes": getattr(dataset, "classes", None),
        "names": getattr(dataset, "names", None),
        "flipped": flipped,
        "record": layout(experiment.model.latent, section.dtype, flipped, others),
    }


def _check(shards: LatentShards, there: Sequence[int], stop: SharedStop) -> tuple[list[int], int]:
    """Reads shards that are there: which are damaged, and how many images were left when it was asked to stop."""
    damaged, left = [], shards.count(there)
    shown = cluster.first() and left > 0
    with Progress(left, f"checking {shards.folder.name}", enabled=shown, unit="images") as bar, warnings_said(bar):
        for shard in there:
            if stop.asked:
                break
            if (reason := shards.damage(shard)) is not None:
                logger.warning("%s is damaged (%s); it is made again", shards.path(shard), reason)
                damaged.append(shard)
            bar.advance(len(shards.numbers(shard)))
            left -= len(shards.numbers(shard))
    return damaged, left


def _encode(
    codec: Any,
    source: Sequence[Any],
    shards: LatentShards,
    missing: Sequence[int],
    section: Encoding,
    place: tuple[int, int],
    stop: SharedStop,
) -> int:
    """Makes the missing shards of a part until it is asked to stop; returns how many images it made."""
    host, hosts = place
    own = shards.count(of_host(shards.all, host, hosts))
    there = own - shards.count(missing)
    if missing and there:
        print(f"{shards.folder}: resuming, {there} of {own} images are there")
    devices = jax.local_device_count()
    mesh, batch = local_mesh(devices), even(min(section.batch, section.shard), devices)
    clock, made = time.perf_counter(), 0
    with (
        shards.claimed(host, hosts),
        Progress(own, f"encoding {shards.folder.name}", start=there, enabled=cluster.first(), unit="images") as bar,
        warnings_said(bar),  # such as a corrupt image
        ThreadPoolExecutor(1) as writer,
        closing(read_ahead(source, shards.pieces(missing, batch))) as batches,
    ):
        written: Future[None] | None = None
        for shard in missing:
            if stop.asked:
                break
            numbers = shards.numbers(shard)
            rows = np.empty(len(numbers), shards.dtype)
            for first in range(0, len(numbers), batch):
                records = next(batches)
                _fill(rows[first : first + batch], codec, stacked(records), batch, mesh, numbers[first])
                bar.advance(len(records))
            if written is not None:
                written.result()
            written = writer.submit(shards.write, shard, rows)
            made += len(numbers)
        if written is not None:
            written.result()
    if made and made == shards.count(missing):
        print(f"{shards.folder}: {made} images in {time.perf_counter() - clock:.1f} s")
    return made


def _fill(rows: np.ndarray, codec: Any, records: dict[str, np.ndarray], batch: int, mesh: Any, first: int) -> None:
    """Writes the posteriors of `records` into `rows` [n]; `first` is the number of the first."""
    x = records.pop("x")
    padding = ((0, batch - len(x)), *((0, 0),) * (x.ndim - 1))
    x = split(np.pad(x, padding), mesh)  # [batch, F, H, W, C]: no batch of another shape, each device its part
    for prefix in ("", FLIPPED):
        if prefix + "mean" not in rows.dtype.names:
            continue
        moments = codec.moments(x[:, :, :, ::-1] if prefix else x)
        for name, moment in zip(("mean", "std"), moments, strict=True):
            with np.errstate(over="ignore"):
                rows[prefix + name] = np.asarray(moment)[: len(rows)]
            whole = np.isfinite(rows[prefix + name]).reshape(len(rows), -1).all(1)
            if not whole.all():
                dtype = rows[prefix + name].dtype
                raise UserError(
                    f"the posterior of image {first + int(np.argmin(whole))} is not finite in {dtype};"
                    f" {'set encode.dtype=float32' if dtype == np.float16 else 'look at the image and the codec'}"
                )
    for key, value in records.items():
        rows[key] = value
