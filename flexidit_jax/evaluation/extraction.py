"""From images to what metrics are handed: features kept in a file, moments, and what samples are compared with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.array_files import write_arrays
from flexidit_jax.common.data_parallel import even
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress
from flexidit_jax.data.image_set import ImageSet
from flexidit_jax.evaluation.reference import Reference
from flexidit_jax.metrics.kept_features import KeptFeatures, keeping
from flexidit_jax.metrics.moments import MomentStream, check_finite
from flexidit_jax.metrics.score import Images
from flexidit_jax.metrics.statistics_file import read_moments, read_statistics, write_moments
from flexidit_jax.runs.stop import Stop

PACKAGE = "flexidit_jax.metrics.features"
#: images between two records of where a pass is
RECORDED = 10_240
#: batches of the network that are read at a time
AT_ONCE = 8


class Halted(Exception):
    """A pass over images was asked to stop; what is done is kept, and the next one goes on there.

    Attributes:
      status: the exit status.
    """

    def __init__(self, status: int, done: int, count: int) -> None:
        super().__init__(f"stopped, {done:,} of {count:,} images are done; the same command goes on")
        self.status = status


class Extractor:
    """An extractor, which sees every image once.

    Args:
      name: a module of `metrics.features`.
      features: its `Features`.
      batch: images handed to it at a time.
    """

    def __init__(self, name: str, features: Any, batch: int = 256) -> None:
        self.name, self._features, self._batch = name, features, batch

    @classmethod
    def of(cls, section: Mapping[str, Any], batch: int, where: str) -> Extractor:
        """The one that a section of a config asks for, over all devices of this process.

        Args:
          section: its name and keywords.
          batch: images that its network sees at once.
          where: of the section, for messages.

        Raises:
          UserError: no such extractor or key, or its weights are not there.
        """
        whole = even(batch, jax.local_device_count())
        made = build.part(PACKAGE, "Features", {"batch": whole, **section}, where)
        return cls(section["name"], made, AT_ONCE * whole)

    @property
    def protocol(self) -> dict[str, Any]:
        """What a number made of its features must say of them; see `metrics.features`."""
        return getattr(self._features, "protocol", {})

    @cached_property
    def widths(self) -> dict[str, int]:
        """Kind of features -> their number; compiles the network."""
        probe = self._features.extract(np.zeros((1, 32, 32, 3), np.uint8))
        return {kind: array.shape[1] for kind, array in probe.items()}

    def words(self, images: ImageSet) -> dict[str, Any]:
        """All that the features of a set of images depend on, JSON-ready; reads the whole set."""
        said = {"features": self.name, "extractor": self.protocol, "sha256": images.sha256, "crop": images.crop}
        return json.loads(json.dumps({**said, "size": images.shape[:2], "remarks": images.remarks}))

    def widths_in(self, folder: Path, images: ImageSet) -> dict[str, int]:
        """See `widths`; where features of the images are kept in the folder, of those, and no network runs."""
        path = self._file(folder, self.words(images))
        if not path.exists():
            return self.widths
        return {kind: array.shape[1] for kind, array in _kept(path).items() if array.ndim == 2}

    def kept_in(self, folder: Path, images: ImageSet) -> KeptFeatures:
        """Features of all images in a file of a folder that is named for all that they depend on; see `kept`."""
        return self.kept(images, self._file(folder, self.words(images)))

    def kept(self, images: ImageSet, path: Path) -> KeptFeatures:
        """Features of all images in a file, which is made where it is not there, and completed where it was begun.

        Raises:
          UserError: the file is of other images or another extractor, or cannot be written; an image is damaged.
          Halted: it was asked to stop.
        """
        words = self.words(images)
        if path.exists():
            found = _kept(path)
            if dict(found.words) != words:
                raise UserError(f"{path} keeps features of other images, or of another extractor; name another file")
            return found
        with keeping(path, self.widths, words) as writer:
            for batch in self._pass(images, "features", writer.done):
                found = self._features.extract(batch)
                for array in found.values():
                    check_finite(array, writer.done)
                writer.add(found)
            return writer.finish(**({} if images.labels is None else {"labels": images.labels}))

    def prompts_in(self, folder: Path, prompts: Sequence[str]) -> np.ndarray:
        """Embeddings [N, D] of texts, kept in a file of a folder as features are.

        Raises:
          UserError: the file cannot be written, or there is no tokenizer.
        """
        words = {
            "features": self.name,
            "extractor": self.protocol,
            "tokenizer": self._features.tokenizer_sha256,
            "sha256": _sha256_of(prompts),
        }
        path = self._file(folder, words)
        if not path.exists():
            write_arrays(path, {"prompts": self._features.text(prompts)}, words)
        return _kept(path)["prompts"]

    def moments(self, images: ImageSet, path: Path) -> dict[str, MomentStream]:
        """Moments of every kind of features, for sets whose features are too many to keep.

        Args:
          path: of the record of where the pass is, which goes on there when it was interrupted. It stays: delete it
            when what the moments are for is written.

        Raises:
          UserError: the record is of other images or another extractor, or cannot be written; an image is damaged.
          Halted: it was asked to stop.
        """
        words = self.words(images)
        streams = {kind: MomentStream() for kind in self.widths if kind != "logits"}
        if path.exists():
            whole, there = read_moments(path)
            if there != words:
                raise UserError(f"{path} is of other images, or of another extractor; delete it, or name another file")
            streams = {kind: MomentStream(whole[kind]) for kind in streams}
        recorded = next(iter(streams.values())).count

        def record(after: int) -> int:
            """Writes whole blocks with more than `after` new images; returns how many images are written."""
            wholes = {kind: stream.whole for kind, stream in streams.items() if stream.whole is not None}
            there = next(iter(wholes.values())).count if wholes else 0
            if there <= recorded + after:
                return recorded
            write_moments(path, wholes, words)
            return there

        try:
            for batch in self._pass(images, "moments", recorded):
                found = self._features.extract(batch)
                for kind, stream in streams.items():
                    stream.add(found[kind])
                recorded = record(RECORDED - 1)
        except Halted:
            record(0)
            raise
        record(0)
        return streams

    def reference(self, opened: Reference, folder: Path, compared: bool, widths: Mapping[str, int]) -> Images:
        """What samples are compared with.

        Where there are statistics, they count, and images beside them are read only where a metric compares features.

        Args:
          opened: checked already.
          folder: where features of its images are kept.
          compared: whether a metric compares features.
          widths: of the features of the samples.

        Raises:
          UserError: it is of another extractor; see `kept` and `metrics.statistics_file`.
        """
        if opened.kept is not None:
            return Images(opened.kept)
        fitted = read_statistics(opened.path, self.name, widths).gaussians if opened.statistics else {}
        return Images(self.kept_in(folder, opened.images) if compared or not fitted else {}, fitted)

    def _pass(self, images: ImageSet, label: str, done: int) -> Iterator[np.ndarray]:
        """Batches from image `done` on, until it is asked to stop."""
        with (
            Stop("finishing these images before stopping") as stop,
            Progress(images.count, label, start=done, unit="images") as bar,
        ):
            for batch in images.batches(self._batch, done):
                yield batch
                bar.advance(len(batch))
                done += len(batch)
                if stop.asked and done < images.count:
                    raise Halted(stop.status, done, images.count)

    def _file(self, folder: Path, words: Mapping[str, Any]) -> Path:
        known = hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()
        return folder / f"{self.name}-{known[:16]}.npz"


def check_extractor(section: Mapping[str, Any], where: str) -> None:
    """Refuses what `Extractor.of` could not make of a section; nothing is read.

    Raises:
      UserError: no such extractor or key, or one that has no weights.
    """
    build.check_part(PACKAGE, "Features", section, where)
    if not hasattr(build.find(PACKAGE, section["name"], "Features"), "kinds"):
        raise UserError(f"{where}: {section['name']} is fitted on data; inception has weights")


def _kept(path: Path) -> KeptFeatures:
    try:
        return KeptFeatures.read(path)
    except UserError as error:
        raise UserError(f"{error}; delete it, and the features are taken again") from None


def _sha256_of(prompts: Sequence[str]) -> str:
    """Of texts, a line each."""
    return hashlib.sha256("".join(f"{prompt}\n" for prompt in prompts).encode()).hexdigest()
