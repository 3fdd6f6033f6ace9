"""The one exception a user is meant to read."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input: one line saying what is wrong, what was found and what would do.

    The command line prints the message alone and exits with status 2; Python callers see an
    ordinary exception.
    """


def nearest(word: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"`, or the list of what is known when nothing comes close."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(known)}" if known else ""
