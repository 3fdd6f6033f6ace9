"""Pictures with their captions, and what is a caption: a picture that lacks one is counted, never trained as ""."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from flexidit_jax.data.left_out import LeftOut
from flexidit_jax.data.span import Span

#: columns in which captions are looked for where nobody names one, in this order
COLUMNS = ("text", "caption", "prompt")
#: what texts beside a picture end in where nobody says so
ENDINGS = (".txt", ".caption")
#: why pictures are left out, see `data.left_out`
NO_CAPTION, NO_IMAGE, EMPTY = "image without a caption", "caption without an image", "image with an empty caption"
NO_TEXT, NO_UTF8 = "image with a caption that is no text", "image with a caption that is not UTF-8"
DISAGREE, EMPTY_AMONG = "image with captions that disagree", "caption of no words among others"

#: what one place says of a picture: its captions, or why they are none
Said = tuple[str, ...] | str


class Pair(NamedTuple):
    """A picture with its captions.

    Attributes:
      name: below the folder of the data set.
      captions: one or several, none of them empty.
      at: the picture's bytes.
      size: height and width as shown, where what lies beside the picture says them.
    """

    name: str
    captions: tuple[str, ...]
    at: Span
    size: tuple[int, int] | None = None


@dataclass(frozen=True)
class Pairs:
    """What a data set holds.

    Attributes:
      folder: in which the names of pairs are.
      pairs: in the order of their names, of shards in the order in which they lie there.
      left_out: why others are not among them.
    """

    folder: Path
    pairs: list[Pair] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)


def of_bytes(data: bytes) -> Said:
    """What a text file says: one caption."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return NO_UTF8
    return NO_UTF8 if "\0" in text else (text,)  # UTF-16 without its mark


def of_value(value: Any) -> Said | None:
    """What a column says: a caption or a list of them; None where it says nothing."""
    if value is None:
        return None
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) for text in texts):
        return NO_TEXT
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:  # halves of characters, as JSON may escape them
        return NO_UTF8
    return tuple(texts)


def agreed(said: Sequence[Said], name: str, left_out: LeftOut) -> tuple[str, ...] | None:
    """The captions of a picture, stripped; None where it is left out, which is counted.

    Args:
      said: by every place that speaks of it.
    """
    if reasons := [one for one in said if isinstance(one, str)]:
        left_out.add(reasons[0], name)
        return None
    told = [tuple(filter(None, map(str.strip, texts))) for texts in said]
    if not any(told):
        left_out.add(EMPTY if said else NO_CAPTION, name)
        return None
    if len(set(told)) > 1:
        left_out.add(DISAGREE, name)
        return None
    if len(told[0]) < len(said[0]):
        left_out.add(EMPTY_AMONG, name)
    return told[0]


def is_ending(caption: str | None) -> bool:
    """Whether `dataset.caption` names files beside pictures, by their ending, and no column."""
    return caption is not None and caption.startswith(".")


def stem(name: str, ending: str) -> str:
    """A name without its ending."""
    return name[: -len(ending)] if ending else os.path.splitext(name)[0]
