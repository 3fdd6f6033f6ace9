"""What samples are compared with, opened before any network runs: what there is is said or refused at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from flexidit_jax.common.array_files import ArrayFile
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import content_digest
from flexidit_jax.common.notes import note
from flexidit_jax.data.image_set import ImageSet, open_images
from flexidit_jax.metrics.kept_features import KeptFeatures
from flexidit_jax.metrics.statistics_file import has_statistics


@dataclass(frozen=True)
class Reference:
    """A file of statistics, of features that were kept, or images; statistics may have images beside them.

    Attributes:
      path: where it is.
      words: what its file says of itself; {} where it says nothing.
      statistics: whether it holds a mean and a covariance, which then count.
      kept: features, if it holds them.
      images: its images, if it holds any.
    """

    path: Path
    words: Mapping[str, Any]
    statistics: bool = False
    kept: KeptFeatures | None = None
    images: ImageSet | None = None

    @classmethod
    def open(cls, path: str | Path, crop: str | None = None, side: int | None = None) -> Reference:
        """What is at a path.

        Args:
          crop, side: of pictures; see `data.image_set.open_images`.

        Raises:
          UserError: nothing is there, or none of these.
        """
        path = Path(path).expanduser()
        if path.suffix != ".npz" or not path.is_file():
            return cls(path, {}, images=open_images(path, crop, side))
        file = ArrayFile(path)
        if "pool" in file:
            found = KeptFeatures.read(path)
            return cls(path, found.words, kept=found)
        if not has_statistics(path):
            return cls(path, file.words(), images=open_images(path, crop, side))
        beside = open_images(path) if "arr_0" in file else None
        return cls(path, file.words(), statistics=True, images=beside)

    @property
    def count(self) -> int | None:
        """Images whose features can be compared; None where there are statistics alone."""
        if self.kept is not None:
            return self.kept.count
        return None if self.images is None else self.images.count

    @property
    def crop(self) -> str | None:
        """What was cut out of its pictures, where that is known."""
        return self.words.get("crop") if self.kept or self.statistics else self.images.crop

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width of its images, where that is known."""
        said = self.words.get("size") if self.images is None else self.images.shape[:2]
        return None if said is None else tuple(said)

    @property
    def remarks(self) -> Sequence[str]:
        """What a number made with it must say, such as that its images are JPEGs."""
        return self.words.get("remarks", ()) if self.kept or self.statistics else self.images.remarks

    @cached_property
    def sha256(self) -> str:
        """Of what there is; reads all of it."""
        return content_digest([self.path]).hexdigest() if self.path.is_file() else self.images.sha256

    def check(self, metrics: Sequence[Any], name: str, protocol: Mapping[str, Any]) -> None:
        """Refuses what cannot serve an extractor, or its metrics.

        Args:
          metrics: that will be made.
          name: of the extractor.
          protocol: what its numbers must say; see `metrics.features`.

        Raises:
          UserError: it was made with another extractor, or otherwise; or statistics alone where a metric compares
            images.
        """
        made = self.words if self.kept or self.statistics else {}
        check_made(self.path, "features" if self.kept else "statistics", made, name, protocol)
        compare = [metric.numbers[0] for metric in metrics if metric.compares]
        if compare and self.count is None:
            cure = f"leave {'it' if len(compare) == 1 else 'them'} out, or name images"
            raise UserError(
                f"{self.path} holds statistics alone, and {', '.join(compare)} would compare images; {cure}"
            )


def check_made(path: Path, what: str, words: Mapping[str, Any], name: str, protocol: Mapping[str, Any]) -> None:
    """Refuses what a file holds where it was not made as an extractor makes it; other weights are said.

    Args:
      what: features or statistics.
      words: what the file says of itself; of what it does not say nothing is refused.
      name, protocol: see `Reference.check`.

    Raises:
      UserError: it was made with another extractor, or otherwise.
    """
    if (made := words.get("features", name)) != name:
        raise UserError(f"{path} holds {what} of {made}, and samples are compared in {name}; name that")
    theirs = words.get("extractor") or {}
    for key in protocol.keys() & theirs.keys():
        if protocol[key] == theirs[key]:
            continue
        if key != "weights_sha256":
            said = f"{key} {theirs[key]!r}, and samples are compared with {protocol[key]!r}"
            raise UserError(f"{path} was made with {said}; make both alike")
        note(f"{path} was made with other weights of {name}: SHA-256 {theirs[key][:12]}..")
