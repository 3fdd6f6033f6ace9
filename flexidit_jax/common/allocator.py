"""Asks glibc to keep freed memory.

XLA's CPU backend allocates its temporaries anew for every execution. glibc gives blocks of that size
back to the kernel when they are freed, so every training step pays for page faults: a third of the CPU
time of the digits run (`benchmarks/allocator.py`). Thresholds would not do, since none exceeds 2 GiB: blocks are
never mapped by themselves, and the heap never shrinks.
"""

from __future__ import annotations

import ctypes
import sys

# mallopt's names for them, from glibc's malloc.h
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Sets this for the whole process; to be called before threads start.

    Returns:
      Whether the C library took it; elsewhere than on glibc it is left alone.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {_ARENA_MAX: 1, _MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
