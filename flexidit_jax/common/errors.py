"""How a run ends before its time: the one exception a user is meant to read, and the status of one that was stopped."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any

#: what a job returns that SIGTERM stopped: sysexits.h's EX_TEMPFAIL, "try again later"; see `--stopped-status`
STOPPED = 75


class UserError(Exception):
    """Bad input: one line saying what is wrong, what was found and what would do.

    The command line prints the message alone and exits with `status`; Python callers see an
    ordinary exception, and in a notebook the line alone.

    Attributes:
      status: 2; another for what is no mistake in the input.
    """

    status = 2

    def _render_traceback_(self) -> list[str]:
        """What IPython shows instead of a traceback."""
        return [f"{type(self).__name__}: {self}"]


def first_line(error: object, most: int = 160) -> str:
    """The start of what another program's error says, or its class where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0][:most] if text else type(error).__name__


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
    close = closest(word, known, most)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    if len(known) > 50:
        return f"; known: {', '.join(known[:3])} and {len(known) - 3:,} more"
    return f"; known: {', '.join(known)}" if known else ""


def closest(word: str, known: Iterable[str], most: int = 1) -> list[str]:
    """Up to `most` of the words known that somebody who wrote `word` may have meant, the likeliest first.

    Case and signs do not matter, and `+` is written `p`: `DPM++` is near `dpmpp_2m`. It counts how many letters they
    have in common, and what begins with all that was typed is near enough.
    """

    def closeness(other: str) -> float:
        typed, there = _letters(word), _letters(other)
        if typed == there:
            return 3 if word == other else 2
        alike = difflib.SequenceMatcher(None, there, typed, autojunk=False).ratio()
        return max(alike, _CLOSE) if len(typed) > 1 and there.startswith(typed) else alike

    ranked = sorted(((closeness(other), other) for other in known), reverse=True)
    return [other for share, other in ranked[:most] if share >= _CLOSE]


#: share of letters in common, in their order, below which a word is another one and no misspelling
_CLOSE = 0.6


def _letters(word: str) -> str:
    return re.sub(r"[\W_]", "", word.lower().replace("+", "p"))
