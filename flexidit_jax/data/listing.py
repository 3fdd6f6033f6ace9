"""What is below a folder, by kind: files of some endings, and why others are left out. No file is opened."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from flexidit_jax.common.errors import UserError
from flexidit_jax.data.left_out import printed

#: what following a link to nothing ends in
_NOTHING = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
#: told why a file is left out, and its name
LeaveOut = Callable[[str, str], None]


def files_below(path: Path, known: tuple[str, ...], leave_out: LeaveOut, name: str = "") -> Iterator[str]:
    """Names, relative to `path`, of files whose names end in one of `known`, in small letters; in any order.

    Hidden ones are passed over. Symbolic links are followed, and never round.

    Args:
      leave_out: is told of all others.
      name: of a folder below `path` where the rest is not looked at.

    Raises:
      OSError: `path` itself cannot be listed.
      UserError: a folder below it.
    """
    within = [(name, frozenset({identity(path), identity(path / name)}))]  # folders, and those above them
    while within:
        folder, above = within.pop()
        try:
            there = entries(path / folder)
        except OSError as error:
            if not folder:
                raise
            raise UserError(
                f"{path / folder} cannot be listed ({error.strerror}); make it readable, or move it out of {path}"
            ) from None
        for entry in there:
            if entry.name.startswith("."):
                continue
            name, kind = f"{folder}/{entry.name}" if folder else entry.name, kind_of(entry)
            if kind == "file" and entry.name.lower().endswith(known):
                yield name
            elif kind != "folder":
                leave_out(why_not(kind, entry.name), name)
            elif (here := identity(entry.path)) in above:
                leave_out("link to a folder above it", name)
            else:
                within.append((name, above | {here}))


def there(folder: str) -> bool:
    """Whether a folder is there, and not empty as a mount point is."""
    path = os.path.expanduser(folder)
    return os.path.isdir(path) and bool(os.listdir(path))


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds, in the order of names."""
    with os.scandir(folder) as there:
        return sorted(there, key=lambda entry: entry.name)


def identity(path: str | Path) -> tuple[int, int]:
    """Of a folder, by whatever name."""
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino


def kind_of(entry: os.DirEntry[str]) -> str:
    """ "folder", "file", "nothing" where a link leads nowhere, or "other", such as a pipe."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError as error:
        if error.errno not in _NOTHING:
            raise UserError(f"{entry.path} cannot be looked at ({error.strerror}); make it readable") from None
        return "nothing"
    return "nothing" if entry.is_symlink() else "other"


def why_not(kind: str, name: str) -> str:
    """Why what is not looked for is left out, see `data.left_out`."""
    if kind == "nothing":
        return "link to nothing"
    if kind == "other":
        return "pipe or device"
    ending = os.path.splitext(name)[1].lower()
    return f"file of kind {printed(ending)}" if ending else "file without an ending"
