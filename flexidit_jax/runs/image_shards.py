"""The folder of `--mode=generate`: images in whole files, and in the end one array.

    manifest.json       the words that every image depends on
    shards/000000.npy   uint8 [shard, H, W, C]
    samples.npz         uint8 arr_0 [num, H, W, C] (as ADM's evaluator reads), int32 arr_1 [num]: their classes

Half a file never has its name; see `shards`.
"""

from __future__ import annotations

import io
import math
import os
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.config import NO_DEFAULTS
from flexidit_jax.common.files import written_aside
from flexidit_jax.runs.shards import Shards, on_disk

ARRAYS = "samples.npz"


class ImageShards(Shards):
    """Images 0 .. num - 1; see `Shards`. `words` hold their shape as `image`."""

    items, suffix, extra = "images", ".npy", (ARRAYS,)

    def __init__(self, folder: Path, words: Mapping[str, Any], defaults: Mapping[str, Any] = NO_DEFAULTS) -> None:
        super().__init__(folder, words, defaults)
        self._image = tuple(words["image"])

    @property
    def finished(self) -> bool:
        """Whether the array of all images is there, and whole."""
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

    def check_room(self, missing: Sequence[int]) -> None:
        """Refuses a disk without room for the missing shards and the array of all.

        Raises:
          UserError: with what is needed and what is free.
        """
        images = self.count(missing) + (self._num if missing or not self.finished else 0)
        needed = images * math.prod(self._image)
        self.check_space(needed, f"{self._num} images, as files and as one array", " or a smaller --num")

    def join(self, labels: np.ndarray) -> Path:
        """Writes all images and their classes [num] as one file, a piece at a time.

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
                            with self.path(shard).open("rb") as images:
                                images.seek(len(_header(self._shape(shard))))
                                shutil.copyfileobj(images, file, 2**24)
                    with archive.open("arr_1.npy", "w") as file:
                        file.write(_header(labels.shape, "<i4"))
                        file.write(labels.astype("<i4").tobytes())
                on_disk(aside)
        except OSError as error:
            raise self.refused(error) from None
        return path

    def _save(self, path: Path, shard: int, images: np.ndarray) -> None:
        if images.dtype != np.uint8 or images.shape != self._shape(shard):
            raise ValueError(f"shard {shard} holds uint8 {self._shape(shard)}, got {images.dtype} {images.shape}")
        with path.open("wb") as file:
            file.write(_header(images.shape))
            file.write(np.ascontiguousarray(images))

    def _shape(self, shard: int) -> tuple[int, ...]:
        return (len(self.numbers(shard)), *self._image)

    def _whole(self, shard: int) -> bool:
        shape = self._shape(shard)
        header = _header(shape)
        try:
            with self.path(shard).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                return size == len(header) + math.prod(shape) and file.read(len(header)) == header
        except OSError:
            return False


def _header(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    """What precedes the bytes of an array in a .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()
