"""ImageNet (ILSVRC 2012) as tensorflow-datasets prepares it: 1,281,167 images, 1,000 classes.

`launch/prepare_imagenet.sh` prepares it once from the two official tars, as array records; reading
those needs no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.data.corrupt import Corrupt, Intact
from flexidit_jax.data.photos import MAX_PIXELS, Photos, photo

NAME = "imagenet2012"


@dataclass(frozen=True)
class Dataset(Photos):
    """Centre crops, read as DiT reads them: no image is turned as its EXIF says, and transparency is dropped.

    Attributes:
      size, max_corrupt, max_pixels: see `data.photos.Photos`.
      data_dir: where tensorflow-datasets keeps its data; None means ~/tensorflow_datasets.
    """

    data_dir: str | None = None

    classes = 1000

    def source(self) -> Sequence[dict[str, np.ndarray]]:
        """The training records {"x", "label"}.

        Raises:
          UserError: the data set is not there, or not all its files; the message says what it is made from.
        """
        return self._images("train")

    def held_out(self) -> Sequence[dict[str, np.ndarray]]:
        """The 50,000 validation records.

        Raises:
          UserError: see `source`.
        """
        return self._images("validation")

    def _images(self, split: str) -> Sequence[dict[str, np.ndarray]]:
        return Intact(_Crops(self._records(split), self.size, self.max_pixels), self.max_corrupt)

    def _records(self, split: str) -> Sequence[dict[str, Any]]:
        import tensorflow_datasets as tfds  # only where ImageNet is trained on
        from google.protobuf.json_format import ParseError

        home = Path(self.data_dir or "~/tensorflow_datasets").expanduser()
        try:
            builder = tfds.builder(NAME, data_dir=home, file_format="array_record")
            records = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
            files = builder.info.splits[split].filepaths
        except (AssertionError, KeyError, NotImplementedError, OSError, ParseError, ValueError):
            raise UserError(f"no {NAME} array records in {home}; {_makes(home)}") from None
        absent = [file for file in files if not file.exists()]  # how many records there are another file says
        if absent:
            raise UserError(
                f"{len(absent)} of {len(files)} files of {NAME}'s {split} records are missing, the first is"
                f" {absent[0]}; {_makes(home)}"
            )
        return records


def _makes(home: Path) -> str:
    """What makes the records; tensorflow-datasets leaves a folder that is there as it is."""
    there = f"move or delete {home / NAME}, " if (home / NAME).exists() else ""
    return (
        f"{there}put ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar (image-net.org) into {home}/downloads/manual"
        f" and run 'launch/prepare_imagenet.sh --data-dir={home}', or set dataset.data_dir to where they are prepared"
    )


class _Crops(Sequence):
    """Prepared records, decoded and cropped when they are asked for."""

    def __init__(self, records: Sequence[dict[str, Any]], size: int, max_pixels: int = MAX_PIXELS) -> None:
        self._records, self._size, self._max_pixels = records, size, max_pixels

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        try:
            record = self._records[i]
        except RuntimeError as error:  # all that array_record raises
            if str(error).startswith("Corrupted"):  # its checksum; whatever else may be better the next time
                raise Corrupt(f"array record {i}", "its checksum does not match") from None
            raise UserError(
                f"record {i} of {NAME} cannot be read ({' '.join(str(error).split()) or 'its file is cut short'});"
                " when it can, the same command goes on; launch/prepare_imagenet.sh makes the records anew where the"
                f" folder {NAME} is deleted first"
            ) from None
        name = np.asarray(record["file_name"]).item()
        name = name.decode() if isinstance(name, bytes) else name
        return photo(record["image"], record["label"], self._size, name, max_pixels=self._max_pixels)
