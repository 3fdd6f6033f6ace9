"""Freed memory is kept, also of blocks above 2 GiB."""

from __future__ import annotations

import subprocess
import sys

import pytest

#: gets and frees 5 GiB, never touched, and prints what is mapped, and what is kept afterwards, in GiB
PROGRAM = """
import ctypes, sys
from flexidit_jax.common.allocator import keep_freed_memory

assert sys.argv[1] == "returned" or keep_freed_memory()
names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()
Info = type("Info", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_size_t) for name in names]})
libc = ctypes.CDLL(None)
libc.mallinfo2.restype, libc.malloc.restype, libc.malloc.argtypes = Info, ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
block = libc.malloc(5 << 30)
assert block
mapped = libc.mallinfo2().hblkhd >> 30
libc.free(block)
print(mapped, libc.mallinfo2().keepcost >> 30)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's")
@pytest.mark.parametrize(("kind", "found"), [("returned", "5 0"), ("kept", "0 5")])
def test_large_blocks(kind: str, found: str) -> None:
    child = subprocess.run([sys.executable, "-c", PROGRAM, kind], capture_output=True, text=True, timeout=300)
    assert child.stdout.strip() == found, child.stderr
