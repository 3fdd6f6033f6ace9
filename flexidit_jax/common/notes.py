"""What a user should know and need not act on."""

from __future__ import annotations

import sys

from flexidit_jax.common.cluster import processes as cluster

#: said already
said: set[str] = set()


def note(text: str) -> None:
    """Prints one line, `note: text`, once however often it is told; of several processes the first one does."""
    if text in said or (Sparing.now is not None and not Sparing.now.admits()):
        return
    said.add(text)
    _print(text)


class Sparing:
    """While it is entered, again and again, few notes are said: for what reads thousands of texts.

    Args:
      most: how many in all; then one more says that others are left out.
    """

    now: Sparing | None = None

    def __init__(self, most: int = 3) -> None:
        self._left = most

    def __enter__(self) -> None:
        Sparing.now = self

    def __exit__(self, *_: object) -> None:
        Sparing.now = None

    def admits(self) -> bool:
        """Whether one more may be said."""
        self._left -= 1
        if self._left == -1:
            _print("and others alike, which are not told")
        return self._left >= 0


def _print(text: str) -> None:
    if cluster.first():
        print(f"note: {text}", file=sys.stderr, flush=True)
