"""Room on the disk, and sizes in words."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax

from flexidit_jax.common.errors import UserError


def needed(tree: Any) -> int:
    """Bytes of all arrays of a tree (or of their shapes); weights do not compress."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def room(folder: Path, bytes_needed: int) -> str:
    """What a checkpoint takes, what is free and what would do, in words."""
    free = _free(folder)
    if free is None:
        return f"{folder} is gone (deleted, or its share unmounted); bring it back, then give the same command again"
    sizes = f"it takes about {in_bytes(bytes_needed)}, {in_bytes(free)} are free"
    remedy = "make room" if free < bytes_needed else "put that right"
    return f"{sizes}; {remedy}, then give the same command again"


def check_room(folder: Path, bytes_needed: int, what: str) -> None:
    """Refuses to begin what would not fit.

    Args:
      folder: where it would be written.
      bytes_needed: how much.
      what: the message begins with it.

    Raises:
      UserError: the disk has less room, or the folder is gone.
    """
    free = _free(folder)
    if free is None or free < bytes_needed:
        raise UserError(f"{what}: {room(folder, bytes_needed)}")


def _free(folder: Path) -> int | None:
    """Bytes; None where the folder is not there, or not to be asked."""
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def in_bytes(n: int) -> str:
    """`"9.8 GB"`."""
    power = min((len(str(n)) - 1) // 3, 4)
    return f"{n} bytes" if power == 0 else f"{n / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"
