"""What docstrings say of keys: `key: text` or `one, other: text` under Args or Attributes."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any


def opening(text: str | None) -> str:
    """Of a docstring."""
    return inspect.cleandoc(text or "").partition("\n")[0]


def sentences(maker: Callable[..., Any]) -> dict[str, str]:
    """What a function or class says of its keywords, the first sentence of each.

    A class speaks for its bases too. What a function leaves out, or says to see elsewhere, says the class it returns.
    """
    said: dict[str, str] = {}
    for text in _docstrings(maker):
        said = {key: sentence for key, sentence in _entries(text).items() if not sentence.startswith("see ")} | said
    return said


def _docstrings(maker: Any) -> Iterator[str]:
    if isinstance(maker, partial):
        yield from _docstrings(maker.func)
    elif inspect.isclass(maker):
        yield from (text for base in maker.__mro__ for text in (base.__doc__, base.__init__.__doc__) if text)
    else:
        yield maker.__doc__ or ""
        returned = maker.__globals__.get(inspect.signature(maker).return_annotation)
        if inspect.isclass(returned):
            yield from _docstrings(returned)


def _entries(text: str) -> dict[str, str]:
    entries: dict[str, str] = {}
    for body in re.findall(r"^(?:Args|Attributes):\n((?:  .*\n|\n)*)", f"{inspect.cleandoc(text)}\n", re.M):
        for keys, words in re.findall(r"^  (\w+(?:, \w+)*): (.*(?:\n    .*)*)", body, re.M):
            sentence = re.split(r"(?<=[.:])\s(?=[A-Z])", " ".join(words.split()))[0]
            entries |= dict.fromkeys(keys.split(", "), sentence.rstrip(".:"))
    return entries
