"""Is there room on the disk for a checkpoint?"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.sizes import in_bytes


def needed(tree: Any) -> int:
    """Bytes of all arrays of a tree (or of their shapes); weights do not compress."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def room(folder: Path, bytes_needed: int) -> str:
    """What a checkpoint takes and what is free, in words."""
    return f"it takes about {in_bytes(bytes_needed)}, {in_bytes(shutil.disk_usage(folder).free)} are free"


def check_room(folder: Path, bytes_needed: int, what: str) -> None:
    """Refuses to begin what would not fit.

    Args:
      folder: where it would be written.
      bytes_needed: how much.
      what: the message begins with it.

    Raises:
      UserError: the disk has less room.
    """
    if shutil.disk_usage(folder).free < bytes_needed:
        raise UserError(f"{what}: {room(folder, bytes_needed)}; make room, then give the same command again")
