"""How a run ends before its time: the one exception a user is meant to read, and the status of one that was stopped."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

#: what a job returns that SIGTERM stopped: sysexits.h's EX_TEMPFAIL, "try again later"; see `--stopped-status`
STOPPED = 75


class UserError(Exception):
    """Bad input: one line saying what is wrong, what was found and what would do.

    The command line prints the message alone and exits with `status`; Python callers see an
    ordinary exception.

    Attributes:
      status: 2; another for what is no mistake in the input.
    """

    status = 2


def together(*parts: Callable[[], Any]) -> list[Any]:
    """What each of `parts` returns. Where some refuse, the others are asked all the same.

    Raises:
      UserError: all that is wrong, in one line and in the order of `parts`.
    """
    made, refusals = [], []
    for part in parts:
        try:
            made.append(part())
        except UserError as error:
            refusals.append(str(error))
    if refusals:
        raise UserError("; also, ".join(dict.fromkeys(refusals)))
    return made


def nearest(word: str, known: Iterable[str], most: int = 1) -> str:
    """`"; did you mean 'x'?"` (or up to `most` of them), or what is known when nothing comes close."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=most, cutoff=0.5)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    if len(known) > 50:
        return f"; known: {', '.join(known[:3])} and {len(known) - 3:,} more"
    return f"; known: {', '.join(known)}" if known else ""
