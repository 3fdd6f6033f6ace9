"""The training or held-out records of a dataset as a set of images, cropped as they are trained on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.pixels import to_uint8
from flexidit_jax.data.image_set import ImageSet
from flexidit_jax.data.photos import Photos
from flexidit_jax.data.read_ahead import read_ahead

#: what `of_dataset` is asked for -> the method of a dataset
PARTS = {"train": "source", "held_out": "held_out"}
#: keys that say where images are, and not which
_ANYWHERE = {"path", "captions", "data_dir", "validation", "validation_captions", "max_corrupt", "max_pixels"}


@dataclass(frozen=True)
class RecordImages(ImageSet):
    """Images read out of records.

    Attributes:
      known: what tells this set of images from others, JSON-ready.
    """

    known: Mapping[str, Any] = field(default_factory=dict)
    _records: Sequence[Mapping[str, Any]] = field(repr=False, default=())

    def batches(self, size: int, first: int = 0) -> Iterator[np.ndarray]:
        """See `ImageSet`."""
        return self.numbered(range(first, self.count), size)

    def numbered(self, numbers: Sequence[int], size: int) -> Iterator[np.ndarray]:
        """See `ImageSet`; no other image is read."""
        groups = (numbers[begin : begin + size] for begin in range(0, len(numbers), size))
        for records in read_ahead(self._records, groups):
            yield to_uint8(np.stack([record["x"][0] for record in records]))

    @cached_property
    def sha256(self) -> str:
        """Of what is known of the set; no image is read for it."""
        return hashlib.sha256(json.dumps(self.known, sort_keys=True).encode()).hexdigest()


def of_dataset(dataset: Any, section: Mapping[str, Any], part: str) -> RecordImages:
    """The images of a part of a dataset.

    Args:
      section: of the config that made it.
      part: a name in `PARTS`.

    Raises:
      UserError: they are no single colour images, or there are none.
    """
    frames, height, width, channels = dataset.shape
    if frames != 1 or channels != 3:
        said = f"{frames} x {height} x {width} x {channels}"
        raise UserError(f"features are of single colour images, and those of dataset {section['name']!r} are {said}")
    if getattr(dataset, "shapes", None) is not None:
        raise UserError("features are of images of one size; dataset.bins=False crops squares, as evaluations do")
    records = getattr(dataset, PARTS[part])()
    if not len(records):
        raise UserError(f"dataset {section['name']!r} has no images in its {part} part")
    known = {key: value for key, value in section.items() if key not in _ANYWHERE}
    if hasattr(dataset, "fingerprint"):
        known["fingerprint"] = dataset.fingerprint(part == "held_out")
    known |= {"part": part, "images": len(records)}
    crop = f"adm {dataset.size}" if isinstance(dataset, Photos) else None
    name = f"{section['name']} {part}"
    return RecordImages(Path(name), len(records), (height, width, 3), None, crop, known=known, _records=records)
