"""The folder of pictures that a judge of others reads, by its name, and what can be no such folder."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import unfinished
from flexidit_jax.runs.clips import check_mp4
from flexidit_jax.text.prompt_files import Prompt

JUDGES = "flexidit_jax.evaluation.judges"
#: bytes of the longest name of a file, which it has while it is written
_LONGEST = 255 - len(unfinished(Path("a")).name) + 1


def judges() -> list[str]:
    """The names of all of them."""
    return build.names(JUDGES, "Folder")


def judge_folder(judge: str, prompts: Sequence[Prompt], each: int, num: int, image: Sequence[int]) -> Any:
    """A `Folder`, see `evaluation.judges`.

    Args:
      judge: its name.
      prompts: as files hold them.
      each: pictures of each prompt.
      num: of all pictures.
      image: the shape of one.

    Raises:
      UserError: prompts of no file; more pictures than these prompts have; pictures in place of clips or the reverse;
        names that are no names of files, or two of one name; or what the judge does not read.
    """
    where = f"generate.files={judge!r}"
    if not prompts:
        raise UserError(f"{where} wants the judge's own file of prompts; --prompts names it")
    if num > (most := each * len(prompts)):
        raise UserError(f"{where} has places for {most} pictures, {each} of each prompt, and --num is {num}")
    folder = build.find(JUDGES, judge, "Folder")(prompts, each)
    if folder.clips != (len(image) == 4):
        kinds = ("clips", "pictures") if folder.clips else ("pictures", "clips")
        raise UserError(f"{where} is of {kinds[0]}, and this model draws {kinds[1]}")
    if folder.clips:
        check_mp4(*image[1:3])
    seen: dict[str, int] = {}
    for number in range(num):
        name = folder.name(number)
        if not (all(map(_nameable, name.split("/"))) and Path(name).suffix):  # such as ".jpeg", of an empty key
            raise UserError(f"{where}: picture {number} would be called {name!r}, which is no name of a file")
        if (other := seen.setdefault(name, number)) != number:
            raise UserError(f"{where}: pictures {other} and {number} would both be {name!r}; leave one prompt out")
    return folder


def _nameable(part: str) -> bool:
    """Whether a file or folder can be called so."""
    with suppress(UnicodeEncodeError):  # of halves of characters
        return part not in ("", ".", "..") and "\0" not in part and len(part.encode()) <= _LONGEST
    return False
