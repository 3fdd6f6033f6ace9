"""A folder of many images: whole files of equal numbers of them, and in the end one array.

    manifest.json       the words that every image depends on
    shards/000000.npy   uint8 [shard, H, W, C]: images 0 .. shard - 1; the last file holds what is left
    samples.npz         uint8 arr_0 [num, H, W, C] (as ADM's evaluator reads), int32 arr_1 [num]: their classes

A file appears under its name when it is whole, so that a kill at any moment costs the images that were
in the making: the next start makes those that are missing, cut off or of another shape.
"""

from __future__ import annotations

import fcntl
import io
import json
import math
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.config import difference
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import unfinished, written_aside

MANIFEST, ARRAYS = "manifest.json", "samples.npz"


def recorded(folder: Path) -> dict[str, Any]:
    """The words of the images in `folder`, {} where there are none.

    Raises:
      UserError: files of something else, or a manifest that cannot be read.
    """
    file = folder / MANIFEST
    try:
        words = json.loads(file.read_text())
    except FileNotFoundError:
        if (folder / "shards").exists() or (folder / ARRAYS).exists():
            raise UserError(f"{folder} holds images without a {MANIFEST}; name another --out") from None
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}); name another --out") from None
    shard = words.get("shard") if isinstance(words, dict) else None
    if type(shard) is not int or shard < 1:
        raise UserError(f"{file} is not one of generated images; name another --out")
    return words


class Shards:
    """The images of one folder, 0 .. num - 1.

    Args:
      folder: made by `claimed`.
      words: JSON-ready; what every image depends on. Beside others `num`, `shard` (images a file) and `image`
        (the shape of one).

    Raises:
      UserError: the folder holds images made with other words; the first key that differs is named.
    """

    def __init__(self, folder: Path, words: Mapping[str, Any]) -> None:
        self.folder, self._words = folder, dict(words)
        self._num, self._size, self._image = words["num"], words["shard"], tuple(words["image"])
        there = recorded(folder)
        differs = difference(self._words, there) if there else None
        if differs is not None:
            key, ours, theirs = differs
            raise UserError(
                f"--out={folder} holds images made with other words: {key} is {theirs!r} there, {ours!r} here;"
                " name another --out, or go back to that value"
            )

    def numbers(self, shard: int) -> range:
        """Of the images in a shard."""
        return range(shard * self._size, min((shard + 1) * self._size, self._num))

    def missing(self) -> list[int]:
        """The shards that are not there, or not whole."""
        return [shard for shard in self._all if not self._whole(shard)]

    def count(self, shards: Sequence[int]) -> int:
        """Images in all of `shards`."""
        return sum(len(self.numbers(shard)) for shard in shards)

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

    def check_space(self, missing: Sequence[int]) -> None:
        """Refuses a disk without room for the missing shards and the array of all.

        Raises:
          UserError: with what is needed and what is free.
        """
        images = self.count(missing) + (self._num if missing or not self.finished else 0)
        needed = images * math.prod(self._image)
        existing = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if needed > free:
            raise UserError(
                f"{self.folder} needs {_bytes(needed)} more for {self._num} images, as files and as one array, and"
                f" {_bytes(free)} are free; make room, or name another --out or a smaller --num"
            )

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Makes the folder, records the words and keeps other processes out meanwhile.

        Raises:
          UserError: it cannot be written, or another process is at work in it.
        """
        lock = None
        try:
            try:
                (self.folder / "shards").mkdir(parents=True, exist_ok=True)
                lock = os.open(self.folder, os.O_RDONLY)  # let go of by the system, however this process ends
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for path in (self.folder / MANIFEST, self.folder / ARRAYS, *map(self._path, self._all)):
                    unfinished(path).unlink(missing_ok=True)  # left by a kill
                with written_aside(self.folder / MANIFEST) as file:
                    file.write_text(json.dumps(self._words, indent=2) + "\n")
            except BlockingIOError:
                raise UserError(f"another process is at work in --out={self.folder}; name another --out") from None
            except OSError as error:
                raise self._refused(error) from None
            yield
        finally:
            if lock is not None:
                os.close(lock)

    def write(self, shard: int, images: np.ndarray) -> None:
        """Writes a shard's images, uint8 [n, H, W, C].

        Raises:
          UserError: the disk is full, or the folder cannot be written; whole shards stay.
        """
        if images.dtype != np.uint8 or images.shape != self._shape(shard):
            raise ValueError(f"shard {shard} holds uint8 {self._shape(shard)}, got {images.dtype} {images.shape}")
        try:
            with written_aside(self._path(shard)) as aside, aside.open("wb") as file:
                file.write(_header(images.shape))
                file.write(np.ascontiguousarray(images))
                file.flush()
                os.fsync(file.fileno())  # the name must not reach the disk before the images
        except OSError as error:
            raise self._refused(error) from None

    def join(self, labels: np.ndarray) -> Path:
        """Writes all images and their classes [num] as one file, a piece at a time.

        Raises:
          UserError: see `write`.
        """
        path = self.folder / ARRAYS
        try:
            with written_aside(path) as aside, aside.open("wb") as whole:
                with zipfile.ZipFile(whole, "w") as archive:
                    with archive.open("arr_0.npy", "w", force_zip64=True) as file:
                        file.write(_header((self._num, *self._image)))
                        for shard in self._all:
                            with self._path(shard).open("rb") as images:
                                images.seek(len(_header(self._shape(shard))))
                                shutil.copyfileobj(images, file, 2**24)
                    with archive.open("arr_1.npy", "w") as file:
                        file.write(_header(labels.shape, "<i4"))
                        file.write(labels.astype("<i4").tobytes())
                whole.flush()
                os.fsync(whole.fileno())  # as in `write`
        except OSError as error:
            raise self._refused(error) from None
        return path

    @property
    def _all(self) -> range:
        return range(-(-self._num // self._size))

    def _path(self, shard: int) -> Path:
        return self.folder / "shards" / f"{shard:06d}.npy"

    def _shape(self, shard: int) -> tuple[int, ...]:
        return (len(self.numbers(shard)), *self._image)

    def _whole(self, shard: int) -> bool:
        shape = self._shape(shard)
        header = _header(shape)
        try:
            with self._path(shard).open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                return size == len(header) + math.prod(shape) and file.read(len(header)) == header
        except OSError:
            return False

    def _refused(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write to --out={self.folder} ({error.strerror}); whole shards stay, and once that is mended the"
            " same command goes on"
        )


def _header(shape: tuple[int, ...], descr: str = "|u1") -> bytes:
    """What precedes the bytes of an array in a .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def _bytes(n: int) -> str:
    """`"9.8 GB"`."""
    power = min((len(str(n)) - 1) // 3, 4)
    return f"{n} bytes" if power == 0 else f"{n / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"
