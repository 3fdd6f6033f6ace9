"""Is a step folder what was written? Sizes and SHA-256 of its files, recorded and compared.

The list of files is written into a step's folder while it still has its temporary name, so that a step under its
own name always has one, whenever a kill comes. SHA-256, because anybody can check it by hand (`sha256sum`) and
processors have instructions for it: one core keeps up with the disks that checkpoints are written to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flexidit_jax.common.cores import cores
from flexidit_jax.common.files import written_aside

#: in every step folder: `{"files": {path within it: [bytes, SHA-256]}}`
CHECKSUMS = "checksums.json"
META = "meta/metadata"


def record(step: Path) -> None:
    """Writes size and SHA-256 of all files in the parts of a step folder.

    Files beside the parts are left out: orbax stamps them last, and nothing is restored from them.
    """
    files = sorted(file for part in step.iterdir() if part.is_dir() for file in part.rglob("*") if file.is_file())
    found = {file.relative_to(step).as_posix(): [file.stat().st_size, _sha256(file)] for file in files}
    with written_aside(step / CHECKSUMS) as unfinished:
        unfinished.write_text(json.dumps({"files": found}, indent=1) + "\n")


def problem(step: Path, parts: Collection[str] | None = None) -> str | None:
    """The first thing in which a step differs from what was recorded, or None.

    None also for a step of an earlier version, which recorded nothing: see `recorded`.

    Args:
      step: its folder.
      parts: those that matter (default: all).
    """
    if not recorded(step):
        meta = _meta(step)
        if meta is None:
            return f"{META} is missing or cannot be read"
        return f"{CHECKSUMS} is missing" if "checksums" in meta else None
    try:
        listed = json.loads((step / CHECKSUMS).read_text())["files"]
        wanted = {name: (size, sha) for name, (size, sha) in listed.items() if not parts or name.split("/")[0] in parts}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"{CHECKSUMS} cannot be read"
    for name, (size, _) in wanted.items():  # costs nothing, before anything is read
        file = step / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} of {size} bytes"

    def differs(name: str) -> str | None:
        try:
            return None if _sha256(step / name) == wanted[name][1] else f"{name} is not what was written"
        except OSError as error:
            return f"{name}: {error.strerror}"

    with ThreadPoolExecutor(min(8, cores())) as pool:
        return next(filter(None, pool.map(differs, wanted)), None)


def recorded(step: Path) -> bool:
    """Whether a step has checksums; those of earlier versions have none."""
    return (step / CHECKSUMS).exists()


def _meta(step: Path) -> dict[str, Any] | None:
    try:
        meta = json.loads((step / META).read_text())
    except (OSError, ValueError):
        return None
    return meta if isinstance(meta, dict) else None


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
