"""One command at work in a folder; the system lets go of it however the process ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flexidit_jax.common.errors import UserError


@contextmanager
def at_work(folder: Path, instead: str, shared: bool = False) -> Iterator[None]:
    """Keeps other commands out of a folder that is there; on a file system that knows no locks nobody is kept out.

    Args:
      folder: nothing is written into it.
      instead: what would do where another is at work.
      shared: with others that say so too.

    Raises:
      UserError: another process is at work there.
      OSError: the folder cannot be read.
    """
    lock = os.open(folder, os.O_RDONLY)
    try:
        keep_out(lock, folder, instead, shared)
        yield
    finally:
        os.close(lock)


def keep_out(opened: int, path: Path, instead: str, shared: bool = False) -> None:
    """Keeps other commands out until what is opened is closed; see `at_work`.

    Args:
      opened: the descriptor of a file or folder.
      path: of it, for the message.

    Raises:
      UserError: another process is at work there.
    """
    try:
        fcntl.flock(opened, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(f"another process is at work in {path}; {instead}") from None
    except OSError:
        pass  # no locks here
