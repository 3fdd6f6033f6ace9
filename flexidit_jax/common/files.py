"""Files and folders that are whole or absent."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flexidit_jax.common.errors import UserError


def folder_named(text: str, flag: str) -> Path:
    """The folder that a user names to write in.

    Raises:
      UserError: no name, or an address where a path is wanted, which would become a folder of that name here.
    """
    if not text:
        raise UserError(f"{flag} is empty; name a folder, or leave it out")
    if "://" in text:
        raise UserError(f"{flag}={text} is an address; mount what is there and give the path of the folder")
    return Path(text).expanduser()


def cache_folder() -> Path:
    """Where this user keeps what can be made again: the folder $FLEXIDIT_JAX_CACHE, else `flexidit_jax` of the cache
    folder.

    Raises:
      RuntimeError: nothing names one, and the user has no home.
    """
    if own := os.environ.get("FLEXIDIT_JAX_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "flexidit_jax"


def content_digest(files: Iterable[Path]) -> Any:
    """The SHA-256 of what files hold, one after the other, as hashlib has it: `hexdigest()` says it.

    Raises:
      UserError: one cannot be read.
    """
    digest = hashlib.sha256()
    for path in files:
        try:
            with path.open("rb") as file:
                hashlib.file_digest(file, lambda: digest)
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror})") from None
    return digest


def shard_file(folder: Path, shard: int, suffix: str) -> Path:
    """The file of shard 0, 1, .. of a folder of many numbered items."""
    return folder / "shards" / f"{shard:06d}{suffix}"


def unfinished(path: Path) -> Path:
    """What `written_aside` and `folder_written_aside` write to, and what a kill leaves."""
    return path.with_name(path.name + ".tmp")


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields a path beside `path` to write to; it takes the name of `path` when all went well.

    A reader never meets half a file, and a failure leaves what was there before. It is as readable as any new file (the
    user's umask), also where a library that writes it makes a private one of its own.
    """
    aside = unfinished(path)
    try:
        aside.unlink(missing_ok=True)
        aside.touch()
        readable = stat.S_IMODE(aside.stat().st_mode)
        yield aside
        if stat.S_IMODE(aside.stat().st_mode) != readable:
            aside.chmod(readable)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def folder_written_aside(folder: Path) -> Iterator[Path]:
    """Yields an empty folder beside `folder`; it replaces `folder` when all went well, and else what was there stays.

    What is replaced is moved away before and deleted after; a kill in between leaves it in `<folder>.<letters>.old`.

    Raises:
      UserError: it cannot be written.
    """
    aside = unfinished(folder)
    shutil.rmtree(aside, ignore_errors=True)
    try:
        aside.mkdir(parents=True)
        yield aside
        _replace(folder, aside)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror})") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _replace(folder: Path, new: Path) -> None:
    """Gives `new` the name of `folder`; where that fails, `folder` is what it was."""
    if not folder.is_dir():  # nothing there, or a file, which the system refuses to replace
        new.rename(folder)
        return
    away = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.old")  # a name nobody has
    away.mkdir()
    old = away / folder.name
    try:
        folder.rename(old)
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        away.rmdir()
        raise
    shutil.rmtree(away, ignore_errors=True)
