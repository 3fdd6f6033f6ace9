"""Files and folders that are whole or absent."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flexidit_jax.common.errors import UserError


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


@contextmanager
def folder_written_aside(folder: Path) -> Iterator[Path]:
    """Yields an empty folder beside `folder`; it replaces `folder` when all went well, and else what was there stays.

    Raises:
      UserError: it cannot be written.
    """
    aside = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror})") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
