"""From images to what metrics are handed: features kept in a file, and a reference out of whatever holds one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.array_files import ArrayFile
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress
from flexidit_jax.data.image_set import ImageSet, open_images
from flexidit_jax.metrics.kept_features import KeptFeatures, keeping
from flexidit_jax.metrics.moments import MomentStream
from flexidit_jax.metrics.score import Images
from flexidit_jax.metrics.statistics_file import has_statistics, read_moments, read_statistics, write_moments

#: images between two records of where a pass is
RECORDED = 10_240


class Extractor:
    """An extractor, which sees every image once.

    Args:
      name: a module of `metrics.features`.
      features: its `Features`.
      batch: images handed to it at a time.
    """

    def __init__(self, name: str, features: Any, batch: int = 256) -> None:
        self.name, self._features, self._batch = name, features, batch

    @cached_property
    def widths(self) -> dict[str, int]:
        """Kind of features -> their number; compiles the network."""
        probe = self._features.extract(np.zeros((1, 32, 32, 3), np.uint8))
        return {kind: array.shape[1] for kind, array in probe.items()}

    def words(self, images: ImageSet) -> dict[str, Any]:
        """All that the features of a set of images depend on, JSON-ready; reads the whole set."""
        protocol = getattr(self._features, "protocol", {})
        return {"features": self.name, **protocol, "images": images.sha256(), "crop": images.crop}

    def kept(self, images: ImageSet, path: Path) -> KeptFeatures:
        """Features of all images in a file, which is made where it is not there, and completed where it was begun.

        Raises:
          UserError: the file is of other images or another extractor, or cannot be written; an image is damaged.
        """
        words = self.words(images)
        if path.exists():
            found = KeptFeatures.read(path)
            if dict(found.words) != words:
                raise UserError(f"{path} keeps features of other images, or of another extractor; name another file")
            return found
        with (
            keeping(path, self.widths, words) as writer,
            Progress(images.count, "features", start=writer.done, unit="images") as bar,
        ):
            for batch in images.batches(self._batch, writer.done):
                writer.add(self._features.extract(batch))
                bar.advance(len(batch))
            return writer.finish(**({} if images.labels is None else {"labels": images.labels}))

    def moments(self, images: ImageSet, path: Path) -> dict[str, MomentStream]:
        """Moments of every kind of features, for sets whose features are too many to keep.

        Args:
          path: of the record of where the pass is, which goes on there when it was interrupted; deleted at its end.

        Raises:
          UserError: the record is of other images or another extractor, or cannot be written; an image is damaged.
        """
        words = self.words(images)
        streams = {kind: MomentStream() for kind in self.widths if kind != "logits"}
        if path.exists():
            whole, there = read_moments(path)
            if there != words:
                raise UserError(f"{path} is of other images, or of another extractor; delete it, or name another file")
            streams = {kind: MomentStream(whole[kind]) for kind in streams}
        done = recorded = next(iter(streams.values())).count
        with Progress(images.count, "moments", start=done, unit="images") as bar:
            for batch in images.batches(self._batch, done):
                found = self._features.extract(batch)
                for kind, stream in streams.items():
                    stream.add(found[kind])
                bar.advance(len(batch))
                wholes = {kind: stream.whole for kind, stream in streams.items() if stream.whole is not None}
                if wholes and next(iter(wholes.values())).count >= recorded + RECORDED:
                    write_moments(path, wholes, words)
                    recorded = next(iter(wholes.values())).count
        path.unlink(missing_ok=True)
        return streams

    def reference(self, path: Path, kept: Path, metrics: Sequence[Any], crop: Mapping[str, Any]) -> Images:
        """What samples are compared with, out of a file of statistics, of features that were kept, or of images.

        Where there are statistics, they count, and images beside them are read only where a metric compares features.

        Args:
          kept: where features of its images are kept.
          metrics: that will be made.
          crop: keywords of `open_images`.

        Raises:
          UserError: it holds neither, or statistics alone where a metric compares images; or of another extractor.
        """
        names = set(ArrayFile(path)) if path.suffix == ".npz" and path.is_file() else set()
        if "pool" in names:
            found = KeptFeatures.read(path)
            if found.words.get("features") != self.name:
                raise UserError(f"{path} keeps features of {found.words.get('features')}, not of {self.name}")
            return Images(found)
        fitted = read_statistics(path, self.name, self.widths).gaussians if names and has_statistics(path) else {}
        compared = set(chain.from_iterable(metric.compares for metric in metrics))
        if fitted and not compared:
            return Images(fitted=fitted)
        if fitted and "arr_0" not in names:
            asked = [metric.numbers[0] for metric in metrics if metric.compares]
            raise UserError(f"{path} holds statistics alone, and {', '.join(asked)} compare images; leave them out")
        return Images(self.kept(open_images(path, **crop), kept), fitted)
