"""ImageNet (ILSVRC 2012) as tensorflow-datasets prepares it: 1,281,167 images, 1,000 classes.

`launch/prepare_imagenet.sh` prepares it once from the two official tars, as array records; reading
those needs no TensorFlow.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flexidit_jax.common.build import positive
from flexidit_jax.common.crop import centre_crop
from flexidit_jax.common.errors import UserError

NAME = "imagenet2012"


@dataclass(frozen=True)
class Dataset:
    """Centre crops, as DiT trains on.

    Attributes:
      size: side of the crop in pixels.
      data_dir: where tensorflow-datasets keeps its data; None means ~/tensorflow_datasets.
    """

    size: int = 256
    data_dir: str | None = None

    classes = 1000

    def __post_init__(self) -> None:
        positive("dataset", size=self.size)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(F, H, W, C) of a record."""
        return (1, self.size, self.size, 3)

    def source(self) -> Sequence[dict[str, np.ndarray]]:
        """The training records {"x", "label"}.

        Raises:
          UserError: the data set is not there; the message says which files it is made from.
        """
        return _Crops(self._records("train"), self.size)

    def held_out(self) -> Sequence[dict[str, np.ndarray]]:
        """The 50,000 validation records."""
        return _Crops(self._records("validation"), self.size)

    def augment(self, record: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Flips half of the images left to right."""
        return {**record, "x": record["x"][:, :, ::-1]} if rng.random() < 0.5 else record

    def _records(self, split: str) -> Sequence[dict[str, Any]]:
        import tensorflow_datasets as tfds  # only where ImageNet is trained on

        home = Path(self.data_dir or "~/tensorflow_datasets").expanduser()
        try:
            builder = tfds.builder(NAME, data_dir=home, file_format="array_record")
            return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        except (AssertionError, KeyError, NotImplementedError, OSError, ValueError):
            raise UserError(
                f"no {NAME} array records in {home}; put ILSVRC2012_img_train.tar and"
                f" ILSVRC2012_img_val.tar (image-net.org) into {home}/downloads/manual and run"
                f" 'launch/prepare_imagenet.sh --data-dir={home}', or set dataset.data_dir to where they are prepared"
            ) from None


class _Crops(Sequence):
    """Prepared records, decoded and cropped when they are asked for."""

    def __init__(self, records: Sequence[dict[str, Any]], size: int) -> None:
        self._records, self._size = records, size

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        record = self._records[i]
        pixels = centre_crop(Image.open(io.BytesIO(record["image"])), self._size)  # [H, W, 3]
        return {"x": (pixels / np.float32(127.5) - 1)[None], "label": np.int32(record["label"])}
