"""Files of prompts: a line each, COCO's captions, and those that benchmarks of pictures of texts hand out.

prompts.txt      a prompt a line
captions.json    COCO's: the first caption of every image that has one, images in the order of their ids
a.jsonl          a line {"prompt": ...} each, as GenEval has it; also "text" or "caption"
a.json           ["a prompt", ...], as HPSv2 has it a style, or {"00000": {"prompt": ...}}, as GenAI-Bench
a folder         of HPSv2's styles
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from flexidit_jax.common.coco_captions import coco_images, is_coco, read_json
from flexidit_jax.common.errors import UserError

#: what a file of prompts ends with; a text that ends so and is no file is a slip
SUFFIXES = (".txt", ".json", ".jsonl")
#: files of HPSv2's benchmark, a list a style
STYLES = ("anime", "concept-art", "paintings", "photo")
#: keys of a prompt, in the order in which they are looked for
_KEYS = ("prompt", "text", "caption")


class Prompt(NamedTuple):
    """A prompt and where it stands.

    Attributes:
      text: what is to be seen.
      group: of a list of prompts, the name of its file without its ending.
      key: the name or number of the prompt there.
      line: all that the file says of it, JSON-ready; None where that is the text alone.
    """

    text: str
    group: str
    key: str
    line: Any = None


def prompts_file(asked: str) -> Path | None:
    """The file or folder of prompts that is asked for; None where that is a prompt itself."""
    path = os.path.expanduser(asked)  # of os, for which a text that can be no name is none
    if asked.strip().endswith(SUFFIXES) or os.path.isfile(path) or (os.path.isdir(path) and _styles(Path(path))):
        return Path(path)
    return None


def read_prompt_file(path: Path) -> list[Prompt]:
    """The prompts of a file, or of a folder of lists.

    Raises:
      UserError: a file that is not there, is no text or is empty, or an entry without a prompt.
    """
    if styles := _styles(path):
        return [prompt for style in styles for prompt in read_prompt_file(style)]
    prompts = list((_of_json if path.suffix == ".json" else _of_lines)(path))
    if not prompts:
        raise UserError(f"{path} holds no prompts; write one a line")
    return prompts


def _styles(path: Path) -> list[Path]:
    files = [path / f"{style}.json" for style in STYLES]
    return [file for file in files if file.is_file()]


def _of_lines(path: Path) -> Iterator[Prompt]:
    try:
        lines = path.read_text(encoding="utf-8-sig").removesuffix("\n").split("\n")  # JSON has others within
    except UnicodeDecodeError:
        raise UserError(f"{path} holds no text in UTF-8; save the prompts so, one a line") from None
    except OSError as error:
        raise UserError(f"the prompts {path} cannot be read ({error.strerror}); a prompt a line would do") from None
    if not any(map(str.strip, lines)):
        return
    for number, line in enumerate(lines):
        if not line.strip():
            raise UserError(f"line {number + 1} of {path} is empty; write a prompt a line, and no line without one")
        told = _object(line) if path.suffix == ".jsonl" else None
        text = line if path.suffix != ".jsonl" else _text(told, f"{path}, line {number + 1}")
        yield Prompt(text, path.stem, f"{number:05d}", told)


def _of_json(path: Path) -> Iterator[Prompt]:
    content = read_json(path)
    if is_coco(content):
        for number, image in enumerate(coco_images(content, path)):
            if image.captions:
                yield Prompt(_text(image.captions[0], f"{path}, image {number}"), path.stem, f"{number:05d}")
        return
    if not isinstance(content, (list, dict)):
        raise UserError(f"{path} holds neither a list of prompts nor COCO's captions")
    listed = content.items() if isinstance(content, dict) else ((f"{i:05d}", one) for i, one in enumerate(content))
    for key, told in listed:
        text = _text(told, f"{path}, entry {key}")
        yield Prompt(text, path.stem, key, None if isinstance(told, str) else told)


def _object(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _text(told: Any, where: str) -> str:
    text = next((told[key] for key in _KEYS if key in told), None) if isinstance(told, dict) else told
    if not isinstance(text, str) or not text.strip() or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UserError(f'{where}: no prompt such as {{"prompt": "a red apple"}}')
    return text.strip()
