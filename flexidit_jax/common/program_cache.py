"""Compiled programs are kept: those of a run in its folder, those of a Python session in the user's cache folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.files import cache_folder

#: seconds; what compiles in less is read no faster from a file
LEAST = 0.01
#: bytes that the programs of Python sessions may take
ROOM = 2**30


def keep_programs(workdir: Path) -> None:
    """Lets jax keep what it compiles in `workdir/cache/jax`, made when there is something to keep.

    What the user set holds: `JAX_COMPILATION_CACHE_DIR` names another folder, and empty it turns this off.
    A folder that cannot be written costs the cache and no more: what must be written there says so in its own words.
    """
    if not _chosen():
        _keep_in(workdir.absolute() / "cache" / "jax")


def keep_session_programs(room: int = ROOM) -> None:
    """As `keep_programs`, where no job runs: in the user's cache folder.

    Several processes keep nothing: their folder would have to be one that all of them see.

    Args:
      room: bytes that programs of earlier sessions may take; those not used for longest go.
    """
    if _chosen() or cluster.several():
        return
    with suppress(OSError, RuntimeError):  # RuntimeError: a user without a home
        folder = cache_folder() / "jax"
        _keep_in(folder)
        _make_room(folder, room)


def _chosen() -> bool:
    """Whether it is settled already where programs are kept: by the user, or by an earlier call."""
    import jax  # not before the command line is known to be right

    return "JAX_COMPILATION_CACHE_DIR" in os.environ or bool(jax.config.jax_compilation_cache_dir)


def _keep_in(folder: Path) -> None:
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST)


def _make_room(folder: Path, room: int) -> None:
    """Deletes the programs that were read or written longest ago.

    jax could do it as it writes, with a package (filelock) that nothing else here needs and a lock around every read.
    """
    found = []
    for file in filter(Path.is_file, folder.rglob("*")):
        with suppress(FileNotFoundError):  # another process makes room too
            about = file.stat()
            found.append((max(about.st_atime, about.st_mtime), about.st_size, file))
    taken = sum(size for _, size, _ in found)
    for _, size, file in sorted(found):
        if taken <= room:
            break
        file.unlink(missing_ok=True)
        taken -= size


@contextmanager
def compiling_anew() -> Iterator[None]:
    """Neither looks at what was kept nor keeps anything: for programs of other machines, and to time the compiler."""
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    before = jax.config.jax_enable_compilation_cache
    try:
        jax.config.update("jax_enable_compilation_cache", False)
        compilation_cache.reset_cache()  # which remembers whether it is on
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
