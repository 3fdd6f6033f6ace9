"""What the headers of many files say, read in threads, with a bar."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.cores import cores
from flexidit_jax.common.progress import Progress
from flexidit_jax.data.captions import Pair
from flexidit_jax.data.corrupt import Corrupt

T = TypeVar("T")
#: files that are handed to the readers at a time
_PIECE = 1024


def headers(
    folder: Path, pairs: Sequence[Pair], read: Callable[[BinaryIO, str], T], unit: str = "files"
) -> list[T | None]:
    """What `read` makes of every file, told the name that a user would look for; None where it finds it `Corrupt`.

    Args:
      folder: in which the names of `pairs` are.
      unit: what files are called behind the bar.

    Raises:
      UserError: a file cannot be read.
    """

    def header(pair: Pair) -> T | None:
        try:
            with pair.at.open() as file:
                return read(file, str(folder / pair.name))
        except Corrupt:
            return None
        except OSError as error:
            raise pair.at.unread(error.strerror) from None

    said: list[T | None] = []
    if not pairs:
        return said
    with (
        Progress(len(pairs), "sizes", unit=unit, enabled=cluster.first()) as bar,
        ThreadPoolExecutor(4 * cores()) as pool,  # most of the time is waited for
    ):
        for first in range(0, len(pairs), _PIECE):
            piece = pairs[first : first + _PIECE]
            said += pool.map(header, piece)
            bar.advance(len(piece))
    return said
