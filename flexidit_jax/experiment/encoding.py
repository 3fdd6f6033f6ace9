"""Posteriors of a part of a dataset: what is recorded of them, which files are damaged, the missing ones made."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flexidit_jax.codecs.latents import stacked
from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.data_parallel import even, local_mesh, split
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress, warnings_said
from flexidit_jax.data.bins import bins_of
from flexidit_jax.data.latent_writer import LatentShards
from flexidit_jax.data.latents import FLIPPED, HELD_OUT, folders_of, layout, size_of
from flexidit_jax.data.numbered_texts import NumberedTexts
from flexidit_jax.data.read_ahead import read_ahead
from flexidit_jax.experiment.experiment import Experiment
from flexidit_jax.experiment.sections import Encoding
from flexidit_jax.runs.record_shards import RecordShards
from flexidit_jax.runs.shards import of_host
from flexidit_jax.runs.stop import SharedStop, Stop

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """Records that lie in one folder.

    Attributes:
      whole: of which part of the dataset they are, `TRAIN` or `HELD_OUT`.
      source: the records, with numbers in place of captions.
      shape: (F, H, W, C) of their data.
      bins: records of every shape of the part, by folder; None where it has one.
    """

    whole: str
    source: Sequence[Any]
    shape: tuple[int, ...]
    bins: Mapping[str, int] | None = None

    @property
    def name(self) -> str:
        """Its folder."""
        return self.whole if self.bins is None else f"{self.whole}/{size_of(self.shape)}"

    def shards(self, experiment: Experiment, dataset: Any, folder: Path) -> LatentShards:
        """The files of the part.

        Args:
          folder: of all parts.

        Raises:
          UserError: the folder holds latents made with other words, or of other shapes; or see `words`.
        """
        there = folders_of(folder / self.whole)
        if folder / self.name not in there and any(map(LatentShards.recorded, there)):
            theirs = "one size" if there == [folder / self.whole] else ", ".join(other.name for other in there)
            ours = "one size" if self.bins is None else ", ".join(self.bins)
            raise UserError(
                f"{folder / self.whole} holds latents of {theirs}, and these are of {ours}; name another --out, or go"
                " back to the dataset.size, bins and unit of those"
            )
        defaults = experiment.origin_defaults | {"names": getattr(dataset, "names", None)}  # once not recorded
        return LatentShards(folder / self.name, self.words(experiment, dataset) | experiment.origin, defaults)

    def words(self, experiment: Experiment, dataset: Any) -> dict[str, Any]:
        """What is recorded beside the origin of latents.

        Raises:
          UserError: no records, or a field that is no number.
        """
        section = experiment.encode
        if not len(self.source):
            raise UserError("there is nothing to encode: the dataset is empty")
        others = {key: value for key, value in self.source[0].items() if key != "x"}
        for key, value in others.items():
            if np.asarray(value).dtype.kind not in "biuf":
                raise UserError(f"encode keeps numbers beside latents; {key!r} of the dataset's records is none")
        held_out = self.whole == HELD_OUT
        mirrors = getattr(dataset, "flip", hasattr(dataset, "augment"))
        flipped = (mirrors if section.flipped is None else section.flipped) and not held_out  # nothing augments these
        latent = experiment.codec.latent_shape(self.shape)
        return {
            "num": len(self.source),
            **({"images": dataset.fingerprint(held_out)} if hasattr(dataset, "fingerprint") else {}),
            "shard": section.shard,
            "dtype": section.dtype,
            "shape": list(self.shape),
            "classes": getattr(dataset, "classes", None),
            "names": getattr(dataset, "names", None),
            "flipped": flipped,
            "record": layout(latent, section.dtype, flipped, others),
            **({} if self.bins is None else {"bins": dict(self.bins)}),
        }


def parts_of(whole: str, dataset: Any, source: Sequence[Any], texts: Sequence[str] | None) -> list[Part]:
    """The parts of a part of a dataset, one a shape.

    Args:
      texts: the captions of all records; None where they have none.
    """
    numbers = {text: number for number, text in enumerate(texts or ())}

    def numbered(records: Sequence[Any]) -> Sequence[Any]:
        return records if texts is None else NumberedTexts(records, numbers)

    if getattr(source, "bins", None) is None:
        return [Part(whole, numbered(source), tuple(dataset.shape))]
    every = bins_of(source)
    counts = {size_of(dataset.shapes[number]): len(records) for number, records in every.items()}
    return [Part(whole, numbered(records), tuple(dataset.shapes[number]), counts) for number, records in every.items()]


def damaged(
    shards: RecordShards, name: str, there: Sequence[int], stop: Stop, unit: str = "images"
) -> tuple[list[int], int]:
    """Reads shards of the part `name`: which are damaged, and how many records were left when it was asked to stop."""
    found, left = [], shards.count(there)
    shown = cluster.first() and left > 0
    with Progress(left, f"checking {name}", enabled=shown, unit=unit) as bar, warnings_said(bar):
        for shard in there:
            if stop.asked:
                break
            if (reason := shards.damage(shard)) is not None:
                logger.warning("%s is damaged (%s); it is made again", shards.path(shard), reason)
                found.append(shard)
            bar.advance(len(shards.numbers(shard)))
            left -= len(shards.numbers(shard))
    return found, left


def encode(
    codec: Any,
    part: Part,
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
        Progress(own, f"encoding {part.name}", start=there, enabled=cluster.first(), unit="images") as bar,
        warnings_said(bar),  # such as a corrupt image
        ThreadPoolExecutor(1) as writer,
        closing(read_ahead(part.source, shards.pieces(missing, batch))) as batches,
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
