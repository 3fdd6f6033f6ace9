"""The folder of one part of an encoded dataset, as `data.latents` reads it: array records."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from flexidit_jax.common.config import NO_DEFAULTS
from flexidit_jax.data.latents import SUFFIX, record_dtype
from flexidit_jax.runs.shards import Shards

#: one record a chunk, so that each is read by itself; latents are noise to a compressor, and reading twice as slow
WRITER = "group_size:1,uncompressed"
#: records read together to see whether they are whole
AT_ONCE = 256
#: bytes at most that array_record adds to a record and to a file
PER_RECORD, PER_FILE = 128, 2**18


class LatentShards(Shards):
    """Posteriors 0 .. num - 1; see `Shards`. `words` hold the fields of one as `record` (`data.latents.layout`)."""

    items, suffix = "latents", SUFFIX

    def __init__(self, folder: Path, words: Mapping[str, Any], defaults: Mapping[str, Any] = NO_DEFAULTS) -> None:
        super().__init__(folder, words, defaults)
        self.dtype = record_dtype(words["record"])

    def size(self, shards: Sequence[int]) -> int:
        """Bytes at most of the files of `shards`."""
        return self.count(shards) * (self.dtype.itemsize + PER_RECORD) + len(shards) * PER_FILE

    def damage(self, shard: int) -> str | None:
        """What is wrong with a shard that is there, if anything: array_record keeps a checksum of every record."""
        num = len(self.numbers(shard))
        try:
            reader = self._reader(shard)
            for first in range(0, num, AT_ONCE):
                reader.read(first, min(first + AT_ONCE, num))
            reader.close()
        except RuntimeError as error:
            return str(error).splitlines()[0]
        return None

    def _save(self, path: Path, shard: int, records: np.ndarray) -> None:
        if records.dtype != self.dtype or records.shape != (len(self.numbers(shard)),):
            raise ValueError(f"shard {shard} holds {len(self.numbers(shard))} records, got {records.shape}")
        try:
            writer = ArrayRecordWriter(str(path), WRITER)
            for record in records:
                writer.write(record.tobytes())
            writer.close()
        except RuntimeError as error:  # which number the system gave is in its words alone
            full = os.strerror(errno.ENOSPC)
            raise OSError(errno.EIO, full if full in str(error) else str(error).split(";")[0]) from None

    def _whole(self, shard: int) -> bool:
        if not self.path(shard).is_file():
            return False
        try:
            reader = self._reader(shard)
            whole = reader.ok() and reader.num_records() == len(self.numbers(shard))
            reader.close()
            return whole
        except RuntimeError:  # the index is at the end: a file that is cut off has none
            return False

    def _reader(self, shard: int) -> ArrayRecordReader:
        return ArrayRecordReader(str(self.path(shard)), "readahead_buffer_size:0,max_parallelism:0")
