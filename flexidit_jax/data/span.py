"""Where the bytes of a record lie: a file, or a part of one."""

from __future__ import annotations

import io
from typing import BinaryIO, NamedTuple

from flexidit_jax.common.errors import UserError


class Span(NamedTuple):
    """Bytes `first` .. `first + length - 1` of a file; safe in threads, since each reader opens it anew.

    Attributes:
      length: None for all that is there.
    """

    file: str
    first: int = 0
    length: int | None = None

    def read(self) -> bytes:
        """All of them.

        Raises:
          UserError: the file cannot be read, or ends before them.
        """
        try:
            with open(self.file, "rb") as file:
                file.seek(self.first)
                data = file.read(-1 if self.length is None else self.length)
        except OSError as error:
            raise self.unread(error.strerror) from None
        if self.length is not None and len(data) < self.length:
            raise self.unread("it has become shorter")
        return data

    def open(self) -> BinaryIO:
        """A file of them alone, read no further than asked for.

        Raises:
          OSError: the file cannot be read.
        """
        return io.BufferedReader(_Part(self))

    def unread(self, why: object) -> UserError:
        """Not a damaged record, which would be skipped: the next try may succeed, and read another one."""
        return UserError(f"{self.file} was listed but cannot be read ({why}); when it can, the same command goes on")


class _Part(io.RawIOBase):
    def __init__(self, span: Span) -> None:
        self._file = open(span.file, "rb")  # noqa: SIM115  see `close`
        self._first, self._at = span.first, 0
        self._length = self._file.seek(0, io.SEEK_END) - span.first if span.length is None else span.length

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        return self._at

    def readinto(self, buffer: bytearray) -> int:
        self._file.seek(self._first + self._at)
        data = self._file.read(max(0, min(len(buffer), self._length - self._at)))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
