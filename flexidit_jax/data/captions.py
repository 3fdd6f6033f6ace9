"""Files with their captions, and what is a caption: a file that lacks one is counted, never trained as ""."""

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
#: what texts beside a file end in where nobody says so
ENDINGS = (".txt", ".caption")
#: why files are left out, behind what they are; see `data.left_out`
NO_CAPTION, EMPTY, DISAGREE = "without a caption", "with an empty caption", "with captions that disagree"
NO_TEXT, NO_UTF8 = "with a caption that is no text", "with a caption that is not UTF-8"
#: likewise, of a caption
EMPTY_AMONG = "caption of no words among others"

#: what one place says of a file: its captions, or why they are none
Said = tuple[str, ...] | str


@dataclass(frozen=True)
class Kind:
    """What has captions.

    Attributes:
      one: a noun with its article, such as "an image"; the plural ends in s.
      example: what a file of this kind may be called.
      endings: what names of such files end in, in small letters.
    """

    one: str
    example: str
    endings: tuple[str, ...]

    @property
    def noun(self) -> str:
        """Such as "image"."""
        return self.one.partition(" ")[2]

    @property
    def alone(self) -> str:
        """Why a caption is left out."""
        return f"caption without {self.one}"


class Pair(NamedTuple):
    """A file with its captions.

    Attributes:
      name: below the folder of the data set.
      captions: one or several, none of them empty.
      at: the bytes of the file.
      size: height and width as shown, where what lies beside the file says them.
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


def agreed(said: Sequence[Said], name: str, kind: Kind, left_out: LeftOut) -> tuple[str, ...] | None:
    """The captions of a file, stripped; None where it is left out, which is counted.

    Args:
      said: by every place that speaks of it.
    """
    told = _told(said)
    if isinstance(told, str):
        left_out.add(f"{kind.noun} {told}", name)
        return None
    if len(told) < len(said[0]):
        left_out.add(EMPTY_AMONG, name)
    return told


def _told(said: Sequence[Said]) -> Said:
    if reasons := [one for one in said if isinstance(one, str)]:
        return reasons[0]
    told = [tuple(filter(None, map(str.strip, texts))) for texts in said]
    if not any(told):
        return EMPTY if said else NO_CAPTION
    return DISAGREE if len(set(told)) > 1 else told[0]


def is_ending(caption: str | None) -> bool:
    """Whether `dataset.caption` names texts beside files, by their ending, and no column."""
    return caption is not None and caption.startswith(".")


def stem(name: str, ending: str) -> str:
    """A name without its ending."""
    return name[: -len(ending)] if ending else os.path.splitext(name)[0]
