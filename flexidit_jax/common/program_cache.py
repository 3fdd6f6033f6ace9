"""Compiled programs are kept in the run's folder, so that the second start of a job compiles little."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

#: seconds; what compiles in less is not worth a file
LEAST = 0.1


def keep_programs(workdir: Path) -> None:
    """Lets jax keep what it compiles in `workdir/cache/jax`, made when there is something to keep.

    What the user set holds: `JAX_COMPILATION_CACHE_DIR` names another folder, and empty it turns this off.
    A folder that cannot be written costs the cache and no more: what must be written there says so in its own words.
    """
    import jax  # not before the command line is known to be right

    if "JAX_COMPILATION_CACHE_DIR" in os.environ or jax.config.jax_compilation_cache_dir:
        return
    jax.config.update("jax_compilation_cache_dir", str(workdir.absolute() / "cache" / "jax"))
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", LEAST)


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
