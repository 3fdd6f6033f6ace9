"""Files that are whole or absent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; it takes the name of `path` when all went well.

    A reader never meets half a file, and a failure leaves what was there before.
    """
    unfinished = path.with_name(path.name + ".tmp")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
