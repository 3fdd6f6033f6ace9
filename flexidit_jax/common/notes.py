"""What a user should know and need not act on."""

from __future__ import annotations

import sys

from flexidit_jax.common.cluster import processes as cluster

#: said already
said: set[str] = set()


def note(text: str) -> None:
    """Prints one line, `note: text`, once however often it is told; of several processes the first one does."""
    if text not in said and cluster.first():
        print(f"note: {text}", file=sys.stderr, flush=True)
    said.add(text)
