"""Arrays in `.npz` files, read and written a piece at a time: headers first, then rows. Nothing is unpickled."""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import written_aside

#: the name of the words beside the arrays
WORDS = "words"
#: bytes of the fixed part of what precedes a member of a zip file, and where in it two lengths are
_LOCAL, _NAME, _EXTRA = 30, slice(26, 28), slice(28, 30)
#: what reading a file that is cut off or damaged ends in
_DAMAGE = (OSError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Stored:
    """An array of a file: what its header says.

    Attributes:
      shape, dtype: of the array.
      start: where its bytes begin in the file; None where they are compressed.
      by_rows: whether row follows upon row, and not column upon column.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    start: int | None
    by_rows: bool = True

    @property
    def row(self) -> int:
        """Bytes of [i] of the array."""
        return self.dtype.itemsize * math.prod(self.shape[1:])


class ArrayFile(Mapping[str, Stored]):
    """The arrays of a `.npz` file by name, none of which is read yet.

    Raises:
      UserError: it cannot be read, or is no whole `.npz` file of plain arrays.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _told(path), zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            self._stored = {name.removesuffix(".npy"): _header(archive, name) for name in names}
        for name, stored in self._stored.items():
            if stored.dtype.hasobject:
                raise UserError(f"{name} of {path} holds pickled objects, which are not read; save it as plain numbers")

    def __getitem__(self, name: str) -> Stored:
        return self._stored[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def read(self, name: str) -> np.ndarray:
        """A whole array.

        Raises:
          UserError: its bytes are damaged.
        """
        with _told(self.path), np.load(self.path, allow_pickle=False) as arrays:
            return arrays[name]

    def rows(self, name: str, at_once: int, first: int = 0) -> Iterator[np.ndarray]:
        """The array in pieces of `at_once` rows, the last one shorter, from row `first` on, read as they are asked for.

        Raises:
          UserError: its bytes are damaged, which its checksum tells with the last of them, or it lies column by column.
        """
        stored = self[name]
        if not stored.by_rows:
            raise UserError(f"{name} of {self.path} lies column by column (Fortran's order); save it row by row")
        with _told(self.path), zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as file:
            _read_header(file)
            file.seek(first * stored.row, os.SEEK_CUR)
            for begin in range(first, stored.shape[0], at_once):
                count = min(at_once, stored.shape[0] - begin)
                data = file.read(count * stored.row)
                yield np.frombuffer(data, stored.dtype).reshape(count, *stored.shape[1:])

    def mapped(self, name: str) -> np.ndarray:
        """The array, read where it is looked at; one that is compressed is read here, whole.

        Raises:
          UserError: see `read`.
        """
        stored = self[name]
        if stored.start is None or not stored.by_rows or 0 in stored.shape:
            return self.read(name)
        return np.memmap(self.path, stored.dtype, "r", stored.start, stored.shape)

    def words(self) -> dict[str, Any]:
        """What `write_arrays` was told beside the arrays; {} where there is nothing of it.

        Raises:
          UserError: see `read`, or it is no JSON.
        """
        if WORDS not in self:
            return {}
        with _told(self.path):
            words = json.loads(str(self.read(WORDS)))
        return words if isinstance(words, dict) else {}


class Pieces(NamedTuple):
    """An array to be written that nobody has whole: its header, and its rows piece by piece."""

    shape: tuple[int, ...]
    dtype: np.dtype
    rows: Iterable[np.ndarray]


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray | Pieces], words: Mapping[str, Any] | None = None) -> None:
    """A `.npz` file, not compressed; whole or not at all.

    Args:
      words: JSON-ready, kept beside the arrays.

    Raises:
      UserError: it cannot be written.
      ValueError: pieces that do not make up what they should.
    """
    said = {} if words is None else {WORDS: np.array(json.dumps(words))}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as aside, aside.open("wb") as whole:
            with zipfile.ZipFile(whole, "w") as archive:
                for name, array in {**arrays, **said}.items():
                    with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                        _write(file, array if isinstance(array, Pieces) else Pieces(array.shape, array.dtype, [array]))
            whole.flush()
            os.fsync(whole.fileno())
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror})") from None


def npy_header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    """What precedes the bytes of an array in a `.npy` file."""
    file = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(dtype))
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": shape})
    return file.getvalue()


def _write(file: IO[bytes], array: Pieces) -> None:
    file.write(npy_header(array.shape, array.dtype))
    count = 0
    for rows in array.rows:
        file.write(np.ascontiguousarray(rows, array.dtype).data.cast("B") if rows.size else b"")
        count += rows.size
    if count != math.prod(array.shape):
        raise ValueError(f"an array of {array.shape} was given {count} numbers")


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"there is no {path}") from None
    except _DAMAGE as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{path} is no whole .npz file ({why}); is the download complete?") from None


def _header(archive: zipfile.ZipFile, name: str) -> Stored:
    entry = archive.getinfo(name)
    with archive.open(name) as file:
        shape, by_rows, dtype = _read_header(file)
        length = file.tell()
    if not dtype.hasobject and entry.file_size != length + dtype.itemsize * math.prod(shape):
        raise ValueError(f"{name} is shorter than it says")
    if entry.compress_type != zipfile.ZIP_STORED:
        return Stored(shape, dtype, None, by_rows)
    with open(archive.filename, "rb") as raw:
        raw.seek(entry.header_offset)
        local = raw.read(_LOCAL)
        end = raw.seek(0, os.SEEK_END)
    start = entry.header_offset + _LOCAL + sum(int.from_bytes(local[part], "little") for part in (_NAME, _EXTRA))
    if start + entry.file_size > end:
        raise ValueError(f"{name} ends beyond the file")
    return Stored(shape, dtype, start + length, by_rows)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns, dtype = read(file)
    return shape, len(shape) < 2 or not columns, dtype
