"""The folder of `--mode=generate`: images in whole files, and in the end one array.

    manifest.json       the words that every image depends on
    shards/000000.npy   uint8 [shard, H, W, C]
    samples.npz         uint8 arr_0 [num, H, W, C] (as ADM's evaluator reads), int32 arr_1 [num]: their classes

Half a file never has its name; see `shards`. Where more images are asked for than there were, those of before stay as
they are: a file that holds the first images of a shard is completed by copying them, and the manifest and the array
are those of before until all are there.
"""

from __future__ import annotations

import io
import math
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from flexidit_jax.common.config import NO_DEFAULTS
from flexidit_jax.common.files import written_aside
from flexidit_jax.runs.shards import Shards, on_disk

ARRAYS = "samples.npz"


class ImageShards(Shards):
    """Images 0 .. num - 1; see `Shards`. `words` hold their shape as `image`."""

    items, suffix, extra, grows = "images", ".npy", (ARRAYS,), True

    def __init__(self, folder: Path, words: Mapping[str, Any], defaults: Mapping[str, Any] = NO_DEFAULTS) -> None:
        super().__init__(folder, words, defaults)
        self._image = tuple(words["image"])

    @property
    def finished(self) -> bool:
        """Whether the array of all images is there, and whole, and the manifest says so."""
        if self._asked_before != self._num:
            return False
        shapes = {
            "arr_0.npy": (_header((self._num, *self._image)), self._num * math.prod(self._image)),
            "arr_1.npy": (_header((self._num,), "<i4"), self._num * 4),
        }
        try:
            with zipfile.ZipFile(self.folder / ARRAYS) as archive:  # its directory comes last: nothing is cut off
                for name, (header, size) in shapes.items():
                    with archive.open(name) as file:
                        if archive.getinfo(name).file_size != len(header) + size or file.read(len(header)) != header:
                            return False
                return True
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return False

    def held(self, shard: int) -> int:
        """How many images, from its first on, the file of a shard holds; 0 where it is not there or not whole."""
        each, length = math.prod(self._image), len(_header(self._shape(shard)))
        try:
            with self.path(shard).open("rb") as file:
                count, rest = divmod(os.fstat(file.fileno()).st_size - length, each)
                whole = 0 < count <= self._size and rest == 0
                return count if whole and file.read(length) == _header((count, *self._image)) else 0
        except OSError:
            return 0

    def there(self) -> int:
        """How many images are there."""
        return sum(min(self.held(shard), len(self.numbers(shard))) for shard in self.all)

    def check_room(self, missing: Sequence[int]) -> None:
        """Refuses a disk without room for the missing shards and the array of all.

        Raises:
          UserError: with what is needed and what is free.
        """
        images = self.count(missing) + (self._num if missing or not self.finished else 0)
        needed = images * math.prod(self._image)
        self.check_space(needed, f"{self._num} images, as files and as one array", " or a smaller --num")

    def join(self, labels: np.ndarray) -> Path:
        """Writes all images and their classes [num] as one file, a piece at a time; then the folder is one of `num`.

        Raises:
          UserError: see `write`.
        """
        path = self.folder / ARRAYS
        try:
            with written_aside(path) as aside:
                with aside.open("wb") as whole, zipfile.ZipFile(whole, "w") as archive:
                    with archive.open("arr_0.npy", "w", force_zip64=True) as file:
                        file.write(_header((self._num, *self._image)))
                        for shard in self.all:
                            self._copy(shard, file)
                    with archive.open("arr_1.npy", "w") as file:
                        file.write(_header(labels.shape, "<i4"))
                        file.write(labels.astype("<i4").tobytes())
                on_disk(aside)
            if self._asked_before != self._num:
                self._asked_before = self._num
                self._record(0)
        except OSError as error:
            raise self.refused(error) from None
        return path

    def _save(self, path: Path, shard: int, images: np.ndarray) -> None:
        """Writes the images that are there and, after them, those that are not, which it is given."""
        shape, kept = self._shape(shard), self.held(shard)
        if images.dtype != np.uint8 or images.shape != (shape[0] - kept, *self._image):
            raise ValueError(f"shard {shard} holds uint8 {shape}, {kept} are there, got {images.dtype} {images.shape}")
        with path.open("wb") as file:
            file.write(_header(shape))
            if kept:
                self._copy(shard, file)
            file.write(np.ascontiguousarray(images))

    def _shape(self, shard: int) -> tuple[int, ...]:
        return (len(self.numbers(shard)), *self._image)

    def _whole(self, shard: int) -> bool:
        return self.held(shard) >= len(self.numbers(shard))

    def _copy(self, shard: int, target: IO[bytes]) -> None:
        """Copies the images of a shard that are there and asked for; more may be there."""
        with self.path(shard).open("rb") as file:
            file.seek(len(_header(self._shape(shard))))
            if self.held(shard) <= len(self.numbers(shard)):
                shutil.copyfileobj(file, target, 2**24)
            else:
                target.write(file.read(math.prod(self._shape(shard))))


def _header(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    """What precedes the bytes of an array in a .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()
