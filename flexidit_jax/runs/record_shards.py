"""Shards of array records: each a piece of bytes of any length, read by its number, with a checksum of its own."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from flexidit_jax.common.files import shard_file
from flexidit_jax.runs.shards import Shards

SUFFIX = ".array_record"
#: one record a chunk, so that each is read by itself; floats are noise to a compressor, and reading twice as slow
WRITER = "group_size:1,uncompressed"
#: records read together to see whether they are whole
AT_ONCE = 256
#: bytes at most that array_record adds to a record and to a file
PER_RECORD, PER_FILE = 128, 2**18


class RecordShards(Shards):
    """Records 0 .. num - 1; see `Shards`."""

    suffix = SUFFIX

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

    def _write(self, path: Path, records: Iterable[bytes]) -> None:
        try:
            writer = ArrayRecordWriter(str(path), WRITER)
            for record in records:
                writer.write(record)
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


def parts_of(folder: Path, num: int, size: int) -> list[Part]:
    """The files of a folder of `num` records, `size` a file."""
    return [
        Part(str(shard_file(folder, first // size, SUFFIX)), min(size, num - first)) for first in range(0, num, size)
    ]


def absent(parts: Sequence[Part]) -> list[str]:
    """Those of the files that are not there."""
    return [part.filename for part in parts if not Path(part.filename).is_file()]


def opened(parts: Sequence[Part]) -> ArrayRecordDataSource:
    """Their records by number, read when they are asked for; a record that is damaged raises RuntimeError."""
    return ArrayRecordDataSource(parts)


@dataclass(frozen=True)
class Part:
    """A file of which array_record need not count the records."""

    filename: str
    take: int
    skip: int = 0

    @property
    def examples_in_shard(self) -> int:
        return self.take
