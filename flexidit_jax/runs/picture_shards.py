"""The folder of `--mode=generate` where each image is a picture.

    manifest.json              the words that every image depends on
    images/000000.png ...      each with what was asked for within
    metadata.jsonl             the same, a line an image, when all are there

A picture appears under its name when it is whole. A shard is so many of them: what a kill may cost. Names may be
others, with files beside them, as those who judge pictures read them; what is called `.mp4` is a clip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.config import NO_DEFAULTS
from flexidit_jax.common.files import written_aside
from flexidit_jax.runs.clips import FORMATS, write_clip
from flexidit_jax.runs.pictures import SAYS, picture_name, write_picture, write_says
from flexidit_jax.runs.shards import Shards

#: what is said of the image of a number, JSON-ready
Says = Callable[[int], Mapping[str, Any]]


class PictureShards(Shards):
    """Images 0 .. num - 1; see `Shards`. `words` hold their shape as `image`.

    Args:
      says: what is written of each.
      name: of each, below the folder of images; its ending says the format.
      beside: names and texts of other files there.
      fps: frames a second of clips that are files of their own format.
    """

    items, within, grows = "images", "images", True

    def __init__(
        self,
        folder: Path,
        words: Mapping[str, Any],
        says: Says,
        defaults: Mapping[str, Any] = NO_DEFAULTS,
        name: Callable[[int], str] = picture_name,
        beside: Iterable[tuple[str, str]] = (),
        fps: int = 16,
    ) -> None:
        super().__init__(folder, words, defaults)
        self._says, self._image, self._name, self._beside, self._fps = says, tuple(words["image"]), name, beside, fps

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
            for name, text in self._beside:
                with written_aside(self._made(name)) as aside:
                    aside.write_text(text, encoding="utf-8")
            write_says(self.folder, self._all_said(), named=lambda number: f"{self.within}/{self._name(number)}")
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
                file = self._made(self._name(number))
                if file.suffix.removeprefix(".") in FORMATS:
                    write_clip(file, [image if image.ndim == 4 else image[None]], self._fps)
                else:
                    write_picture(file, image, self._says(number))
        except OSError as error:
            raise self.refused(error) from None

    def _all_said(self) -> Iterable[tuple[int, Mapping[str, Any]]]:
        return ((number, self._says(number)) for number in range(self._num))

    def _file(self, number: int) -> Path:
        return self.folder / self.within / self._name(number)

    def _made(self, name: str) -> Path:
        """A file of the folder of images, whose own folder is made."""
        file = self.folder / self.within / name
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def _whole(self, shard: int) -> bool:
        return self.held(shard) == len(self.numbers(shard))
