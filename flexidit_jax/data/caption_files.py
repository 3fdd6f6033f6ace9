"""Files that say captions of many others: `metadata.jsonl` and `.csv`, COCO's JSON, a JSON list such as PixArt's.

    metadata.jsonl    {"file_name": "a/0.png", "text": "a red apple"}     a list is several captions
    metadata.csv      file_name,text                                     a line each
    metadata.csv      video,prompt                                       as trainers of clips have it
    captions.json     {"images": [{"id", "file_name"}], "annotations": [{"image_id", "caption"}]}
    data_info.json    [{"path": "0.png", "prompt": "a red apple", "height": 512, "width": 512}]

Lines of the same file add up to several captions.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from flexidit_jax.common.coco_captions import coco_images, is_coco, read_json, stated_size
from flexidit_jax.common.errors import UserError, first_line, nearest
from flexidit_jax.data.captions import COLUMNS, Said, of_value

#: what such a file is called where it lies beside those
METADATA = ("metadata.jsonl", "metadata.csv")
#: what it may end in
SUFFIXES = (".jsonl", ".csv", ".json")
#: columns that name a file
_NAMES = ("file_name", "path", "video")

Row = Mapping[str, Any]


@dataclass
class Told:
    """What a file says of another.

    Attributes:
      said: its captions, or why they are none; None where no line has any.
      size: height and width, where the file says them.
    """

    said: Said | None = None
    size: tuple[int, int] | None = field(default=None)

    def add(self, said: Said | None) -> None:
        """Of one more line."""
        if isinstance(self.said, tuple) and isinstance(said, tuple):
            self.said += said
        elif self.said is None or isinstance(said, str):
            self.said = said


def read_captions(file: Path, caption: str | None = None) -> dict[str, Told]:
    """What a file tells of every other that it names, in the order of its lines.

    Args:
      caption: the column; None for the first of `COLUMNS` that there is.

    Raises:
      UserError: a file that cannot be read, a line that is none, a name that leaves the folder, or no such column.
    """
    rows = list(_rows(file))
    columns = dict.fromkeys(key for _, row in rows for key in row)
    column = _column(caption, [key for key in columns if key not in _NAMES], file) if rows else None
    told: dict[str, Told] = {}
    for where, row in rows:
        name = _name(row, where)
        one = told.setdefault(name, Told(size=stated_size(row)))
        one.add(of_value(row.get(column)))
    return told


def _rows(file: Path) -> Iterator[tuple[str, Row]]:
    """Every line with where it stands, for those who have to mend it."""
    if file.suffix not in SUFFIXES:
        raise UserError(f"{file} is no file of captions, whose name ends in {', '.join(SUFFIXES)}")
    if file.suffix == ".json":
        content = read_json(file)
        if is_coco(content):
            for number, (name, captions, size) in enumerate(coco_images(content, file)):
                sides = dict(zip(("height", "width"), size, strict=True)) if size else {}
                yield f"image {number} of {file}", {"file_name": name, "caption": captions or None} | sides
            return
        if not isinstance(content, list):
            raise UserError(f"{file} is neither COCO's JSON of images and annotations nor a list of files")
        yield from _objects(enumerate(content), "entry", file)
        return
    try:
        lines = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 at byte {error.start}; save it so") from None
    if file.suffix == ".csv":
        yield from _table(lines, file)
    else:
        numbered = ((number, line) for number, line in enumerate(lines.split("\n"), 1) if line.strip())
        yield from _objects(((number, _parsed(line)) for number, line in numbered), "line", file)


def _objects(numbered: Iterable[tuple[int, Any]], kind: str, file: Path) -> Iterator[tuple[str, Row]]:
    for number, row in numbered:
        where = f"{kind} {number} of {file}"
        if not isinstance(row, dict):
            raise UserError(f'{where} is no object such as {{"file_name": "0.png", "text": "an apple"}}')
        yield where, row


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _table(text: str, file: Path) -> Iterator[tuple[str, Row]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        for row in reader:
            where = f"line {reader.line_num} of {file}"
            if None in row or None in row.values():
                more = "more" if None in row else "fewer"
                raise UserError(f"{where} has {more} cells than its head; cells with commas stand in double quotes")
            yield where, row
    except csv.Error as error:
        raise UserError(f"{file} is no table from line {reader.line_num} on ({first_line(error)})") from None


def _column(asked: str | None, columns: Sequence[str], file: Path) -> str:
    if asked is not None:
        if asked in columns:
            return asked
        raise UserError(f"{file} has no column {asked!r} for dataset.caption{nearest(asked, columns)}")
    if found := [column for column in COLUMNS if column in columns]:
        return found[0]
    there = f"; there are {', '.join(columns)}" if columns else ""
    raise UserError(f"{file} has no column {', '.join(COLUMNS)}; dataset.caption names that of the captions{there}")


def _name(row: Row, where: str) -> str:
    """The file of a line, below the folder of that which it is in."""
    name = next((row[key] for key in _NAMES if key in row), None)
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{where} names no file; each has a file_name, relative to the folder of that file")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{where} names {name!r}, which leaves the folder of that file; name what is within")
    return str(path)
