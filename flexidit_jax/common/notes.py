"""What a user should know and need not act on."""

from __future__ import annotations

import sys

from flexidit_jax.common.cluster import processes as cluster


def note(text: str) -> None:
    """Prints one line, `note: text`; of several processes the first one does."""
    if cluster.first():
        print(f"note: {text}", file=sys.stderr, flush=True)
