"""Features kept in one file, from which every number is made again without the network.

    images.features.npz        one array [N, D] a kind (pool, spatial, logits), what else is known of the images, words
    images.features.npz.part   while it is written: a line of words, then the features of an image after another

The part grows by whole batches, so that a kill costs one batch and the next start goes on behind what is there. One
process writes it; others are kept out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.array_files import WORDS, ArrayFile, Pieces, write_arrays
from flexidit_jax.common.config import difference
from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.metrics.distances import cut
from flexidit_jax.runs.lock import keep_out

#: images copied at a time
TILE = 2048


@dataclass(frozen=True)
class KeptFeatures(Mapping[str, np.ndarray]):
    """Arrays [N, ...] by name, float32 where they are features, read where they are looked at.

    Attributes:
      path: the file.
      words: of what they are the features.
      count: images.
    """

    path: Path
    words: Mapping[str, Any]
    count: int
    _arrays: Mapping[str, np.ndarray] = field(repr=False)

    @classmethod
    def read(cls, path: Path) -> KeptFeatures:
        """What is kept in a file.

        Raises:
          UserError: it is not there, not whole, or holds something else.
        """
        file = ArrayFile(path)
        arrays = {name: file.mapped(name) for name in file if name != WORDS}
        counts = {len(array) for array in arrays.values() if array.ndim}
        if WORDS not in file or len(counts) != 1:
            raise UserError(f"{path} holds {', '.join(file) or 'nothing'}, and no features that were kept")
        return cls(path, file.words(), counts.pop(), arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            raise UserError(f"{self.path} keeps no {name!r}{nearest(name, self._arrays)}")
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def tiles(self, name: str, size: int = TILE) -> Iterator[np.ndarray]:
        """An array in pieces of `size` rows, in order."""
        return (self[name][rows] for rows in cut(self.count, size))


class FeatureWriter:
    """Writes features, batch by batch; see the head of this file. Made by `keeping`.

    Attributes:
      done: images whose features are there; the next batch is that of image `done`.
    """

    def __init__(self, path: Path, widths: Mapping[str, int], words: Mapping[str, Any], file: Any, start: int) -> None:
        self._path, self._words, self._file, self._start = path, words, file, start
        self._record = np.dtype([(name, "<f4", (width,)) for name, width in widths.items()])
        self.done = (file.seek(0, os.SEEK_END) - start) // self._record.itemsize
        file.truncate(start + self.done * self._record.itemsize)  # half a record is what a kill left
        file.seek(0, os.SEEK_END)

    def add(self, features: Mapping[str, np.ndarray]) -> None:
        """Takes arrays [B, D] of the next B images.

        Raises:
          UserError: the disk is full.
          ValueError: arrays of other names or widths than were announced.
        """
        widths = {name: self._record[name].shape for name in self._record.names}
        if {name: array.shape[1:] for name, array in features.items()} != widths:
            raise ValueError(f"features of {widths} were announced, not {list(features)}")
        records = np.empty(len(next(iter(features.values()))), self._record)
        for name, array in features.items():
            records[name] = array
        try:
            self._file.write(records.tobytes())
            self._file.flush()
        except OSError as error:
            raise UserError(f"cannot write {self._path} ({error.strerror}); what is there stays") from None
        self.done += len(records)

    def finish(self, **others: np.ndarray) -> KeptFeatures:
        """The file of all features, which takes the place of the part.

        Args:
          others: what else is kept of every image, such as `labels` [N].

        Raises:
          UserError: the disk is full; or the part holds more or less than was written here, which is seen where the
            file system knows no locks.
        """
        self._file.flush()
        size, written = os.fstat(self._file.fileno()).st_size, self._start + self.done * self._record.itemsize
        if size != written:
            raise UserError(
                f"{self._file.name} is {size:,} bytes, and {self.done:,} images are {written:,}; another process wrote"
                " into it, so delete it, and run one at a time"
            )
        arrays: dict[str, Any] = dict(others)
        if self.done:
            records = np.memmap(self._file.name, self._record, "r", self._start, (self.done,))
            arrays |= {name: _column(records[name]) for name in self._record.names}
        write_arrays(self._path, arrays, self._words)
        Path(self._file.name).unlink()
        return KeptFeatures.read(self._path)


@contextmanager
def keeping(path: Path, widths: Mapping[str, int], words: Mapping[str, Any]) -> Iterator[FeatureWriter]:
    """What writes features to `path`, going on where an earlier start was killed.

    Args:
      widths: of every kind of features, by name.
      words: JSON-ready; all that the features depend on.

    Raises:
      UserError: a part of other features is there (the first word that differs is named), another process writes it
        or has just finished, or it cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    head = json.loads(json.dumps({**words, "widths": widths}))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("a+b") as file:
            keep_out(file.fileno(), part, "wait until it is done, and the same command reads what it kept")
            if path.exists():  # the other one was done between the look of the caller and here
                part.unlink(missing_ok=True)
                raise UserError(f"another process has just finished {path}; the same command reads it")
            file.seek(0)
            line = file.readline()
            if not line.endswith(b"\n"):  # new, or killed at its first line
                file.truncate(0)
                file.write(line := json.dumps(head).encode() + b"\n")
                file.flush()
            _check_same(part, line, head)
            yield FeatureWriter(path, widths, words, file, len(line))
    except OSError as error:
        raise UserError(f"cannot write {part} ({error.strerror})") from None


def _column(features: np.ndarray) -> Pieces:
    return Pieces(features.shape, features.dtype, (features[part] for part in cut(len(features), TILE)))


def _check_same(part: Path, line: bytes, head: Mapping[str, Any]) -> None:
    try:
        there = json.loads(line)
    except ValueError:
        raise UserError(f"{part} holds no features; move it away, or name another file") from None
    if (differs := difference(head, there)) is not None:
        key, ours, theirs = differs
        raise UserError(
            f"{part} is begun with other features: {key} is {theirs!r} there, {ours!r} here; delete it, or go back to"
            " that value"
        )
