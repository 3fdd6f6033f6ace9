"""The folder of `--mode=generate` where each image is a picture.

    manifest.json              the words that every image depends on
    images/000000.png ...      each with what was asked for within
    metadata.jsonl             the same, a line an image, when all are there

A picture appears under its name when it is whole. A shard is so many of them: what a kill may cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.config import NO_DEFAULTS
from flexidit_jax.runs.pictures import SAYS, picture_file, write_picture, write_says
from flexidit_jax.runs.shards import Shards

#: what is said of the image of a number, JSON-ready
Says = Callable[[int], Mapping[str, Any]]


class PictureShards(Shards):
    """Images 0 .. num - 1; see `Shards`. `words` hold their shape as `image`."""

    items, within, grows = "images", "images", True

    def __init__(
        self, folder: Path, words: Mapping[str, Any], says: Says, defaults: Mapping[str, Any] = NO_DEFAULTS
    ) -> None:
        super().__init__(folder, words, defaults)
        self._says, self._image = says, tuple(words["image"])

    @property
    def finished(self) -> bool:
        """Whether the lines about all images are there, and the manifest says so."""
        return self._asked_before == self._num and (self.folder / SAYS).is_file()

    def path(self, shard: int) -> Path:
        """The last picture of a shard."""
        return self._file(self.numbers(shard)[-1])

    def held(self, shard: int) -> int:
        """How many pictures of a shard are there, from its first on."""
        numbers = self.numbers(shard)
        return next((i for i, number in enumerate(numbers) if not self._file(number).is_file()), len(numbers))

    def there(self) -> int:
        """How many are there."""
        return sum(map(self.held, self.all))

    def check_room(self, missing: Sequence[int]) -> None:
        """Refuses a disk without room for the missing shards.

        Raises:
          UserError: with what is needed and what is free.
        """
        self.check_space(self.count(missing) * math.prod(self._image), f"{self._num} pictures", " or a smaller --num")

    def join(self, labels: np.ndarray) -> Path:
        """Writes what is said of all; then the folder is one of `num`.

        Raises:
          UserError: see `write`.
        """
        try:
            write_says(self.folder, self._all_said(), named=f"{self.within}/")
            if self._asked_before != self._num:
                self._asked_before = self._num
                self._record(0)
        except OSError as error:
            raise self.refused(error) from None
        return self.folder / SAYS

    def write(self, shard: int, images: np.ndarray) -> None:
        """Writes those pictures of a shard that are not there.

        Raises:
          UserError: the disk is full, or the folder cannot be written; whole pictures stay.
        """
        numbers = self.numbers(shard)[self.held(shard) :]
        if images.dtype != np.uint8 or images.shape != (len(numbers), *self._image):
            raise ValueError(f"shard {shard} lacks {len(numbers)} images, got {images.dtype} {images.shape}")
        try:
            for number, image in zip(numbers, images, strict=True):
                write_picture(self._file(number), image, self._says(number))
        except OSError as error:
            raise self.refused(error) from None

    def _all_said(self) -> Iterable[tuple[int, Mapping[str, Any]]]:
        return ((number, self._says(number)) for number in range(self._num))

    def _file(self, number: int) -> Path:
        return picture_file(self.folder / self.within, number)

    def _whole(self, shard: int) -> bool:
        return self.held(shard) == len(self.numbers(shard))
