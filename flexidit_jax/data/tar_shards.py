"""Shards as webdataset has them: `.tar` files of members `key.jpg`, `key.txt`, `key.json`, read where they lie.

A key is all of a name up to the first dot behind its folder; members of a key are adjacent. Headers are read once; any
file is then a span of its shard, so that shards are as random access as files.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.coco_captions import stated_size
from flexidit_jax.common.cores import cores
from flexidit_jax.common.errors import UserError, first_line, nearest
from flexidit_jax.common.progress import Progress
from flexidit_jax.data.captions import (
    COLUMNS,
    ENDINGS,
    NO_TEXT,
    NO_UTF8,
    Kind,
    Pair,
    Pairs,
    agreed,
    is_ending,
    of_bytes,
    of_value,
)
from flexidit_jax.data.left_out import LeftOut
from flexidit_jax.data.listing import entries
from flexidit_jax.data.span import Span

SUFFIX, JSON = ".tar", ".json"
#: bytes of a tar's blocks; a whole one ends with such of zeros alone
_BLOCK = 512
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_KEY = re.compile(r"((?:.*/)?[^./]+)(\.[^/]*)", re.DOTALL)
#: what gzip, bzip2, xz and zstandard begin with
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")


def shards_of(path: str, kind: Kind) -> list[Path]:
    """The shards that a path names: `{00000..00099}.tar`, one `.tar`, or a folder of them; none where it names none.

    Raises:
      UserError: braces whose shards are not all there; a folder with files of this kind beside its shards.
    """
    if files := named_shards(path):
        if missing := [file for file in files if not file.is_file()]:
            raise UserError(
                f"{len(missing):,} of {len(files):,} shards {path} are not there, the first is {missing[0]}; fetch"
                " them, or name those that are there"
            )
        return files
    if not os.path.isdir(path):
        return []
    names = [entry.name for entry in entries(Path(path)) if not entry.name.startswith(".") and entry.is_file()]
    shards = [name for name in names if name.endswith(SUFFIX)]
    if shards and (others := [name for name in names if name.lower().endswith(kind.endings)]):
        raise UserError(
            f"{path} holds shards ({shards[0]}) and {kind.noun}s ({others[0]}); move either, or name the shards, such"
            f" as {path}/{{00000..00099}}.tar"
        )
    return [Path(path, name) for name in shards]


def named_shards(path: str) -> list[Path]:
    """Those of braces, or the one `.tar`, whether they are there or not; none of another path."""
    if not path.endswith(SUFFIX) or os.path.isdir(path):
        return []
    numbers = [_numbers(first, last) for first, last in _BRACES.findall(path)]
    between = _BRACES.sub("\0", path).split("\0")
    return [
        Path("".join(itertools.chain(*zip(between, (*some, ""), strict=True)))) for some in itertools.product(*numbers)
    ]


def _numbers(first: str, last: str) -> list[str]:
    return [f"{number:0{len(first)}d}" for number in range(int(first), int(last) + 1)]


def captioned_shards(files: list[Path], kind: Kind, caption: str | None = None) -> Pairs:
    """The members of shards that have captions.

    Args:
      kind: of members.
      caption: a column of each `key.json`; an ending of texts, such as ".txt"; None for `COLUMNS` and `ENDINGS` of
        `data.captions`, which must agree.

    Raises:
      UserError: a shard that is cut short, damaged, compressed or none; a column that no `key.json` has.
    """
    found, columns = Pairs(Path(os.path.commonpath([file.parent for file in files]))), set()
    with (
        Progress(len(files), "listing", unit="shards", enabled=cluster.first()) as bar,
        ThreadPoolExecutor(cores()) as pool,
    ):
        for shard in pool.map(lambda file: _Shard(file, found.folder, kind, caption).read(), files):
            found.pairs.extend(shard.pairs)
            found.left_out.add_all(shard.left_out)
            columns |= shard.columns
            bar.advance()
    if caption is not None and not is_ending(caption) and caption not in columns:
        raise UserError(f"no .json of {files[0]} has dataset.caption={caption!r}{nearest(caption, columns)}")
    return found


class _Shard:
    """What a shard holds.

    Attributes:
      pairs, left_out: as of `Pairs`.
      columns: of all its `.json`.
    """

    def __init__(self, file: Path, folder: Path, kind: Kind, caption: str | None) -> None:
        self.pairs: list[Pair] = []
        self.left_out, self.columns = LeftOut(), set()
        self._file, self._name, self._kind = file, str(file.relative_to(folder)), kind
        self._columns = () if is_ending(caption) else (caption,) if caption else COLUMNS
        self._texts = (caption.lower(),) if is_ending(caption) else () if caption else ENDINGS

    def read(self) -> _Shard:
        """Reads headers, texts and `.json`.

        Raises:
          UserError: it is no whole tar.
        """
        try:
            with self._file.open("rb") as content:
                for key, members in itertools.groupby(self._members(content), lambda one: one[0]):
                    of_key: dict[str, Span] = {}
                    for _, ending, span in members:
                        if of_key.setdefault(ending, span) is not span:
                            self.left_out.add("member of a name that was there before", f"{self._name}/{key}{ending}")
                    self._take(f"{self._name}/{key}", of_key, content)
        except OSError as error:
            raise UserError(f"{self._file} cannot be read ({error.strerror})") from None
        return self

    def _members(self, content: BinaryIO) -> Iterator[tuple[str, str, Span]]:
        """Key, ending in small letters and place of every member.

        Raises:
          UserError: the shard does not end as a whole one does.
        """
        makes = "fetch or write it again, or leave it out of dataset.path"
        try:
            archive = tarfile.open(fileobj=content, mode="r:")  # noqa: SIM115  its owner closes `content`
            while (member := archive.next()) is not None:
                archive.members.clear()  # it would keep them all
                parsed = _KEY.fullmatch(member.name.removeprefix("./"))
                if member.isreg() and not member.issparse() and parsed is not None:
                    yield parsed[1], parsed[2].lower(), Span(str(self._file), member.offset_data, member.size)
                elif not member.isdir() and not os.path.basename(member.name).startswith("."):
                    why = "member without an ending" if member.isreg() else "link or device in a shard"
                    self.left_out.add(why, f"{self._name}/{member.name}")
            content.seek(archive.offset)
            mark = content.read(_BLOCK)
        except tarfile.ReadError as error:
            content.seek(0)
            start = content.read(max(map(len, _COMPRESSED)))
            if start.startswith(_COMPRESSED):
                raise UserError(f"{self._file} is compressed; unpack it: members are read where they lie") from None
            short = not start or "unexpected end" in str(error)
            what = "is cut short" if short else f"is no tar that can be read ({first_line(error)})"
            raise UserError(f"{self._file} {what}; {makes}") from None
        if len(mark) < _BLOCK:
            raise UserError(f"{self._file} is cut short: it ends without a mark at byte {archive.offset}; {makes}")
        if any(mark):
            raise UserError(f"{self._file} is damaged at byte {archive.offset}, where no member begins; {makes}")

    def _take(self, name: str, members: dict[str, Span], content: BinaryIO) -> None:
        """Adds the file of a key with its captions; where there is either alone, that is counted."""
        mine = [ending for ending in members if ending in self._kind.endings]
        texts = [ending for ending in self._texts if ending in members]
        for ending in members.keys() - {*mine[:1], *ENDINGS, *self._texts, JSON}:
            self.left_out.add(f"member of kind {ending}", name + ending)
        if not mine:
            if texts or JSON in members:
                self.left_out.add(self._kind.alone, name + (texts or [JSON])[0])
            return
        said, size = [of_bytes(_bytes(content, members[ending])) for ending in texts], None
        if JSON in members:
            told = _object(_bytes(content, members[JSON]))
            if isinstance(told, str):
                said += [told] if self._columns else []
            else:
                self.columns |= told.keys()
                size = stated_size(told)
                values = (of_value(told[column]) for column in self._columns if column in told)
                said += [value for value in itertools.islice(values, 1) if value is not None]
        name += mine[0]
        if (captions := agreed(said, name, self._kind, self.left_out)) is not None:
            self.pairs.append(Pair(name, captions, members[mine[0]], size))


def _object(data: bytes) -> dict[str, Any] | str:
    """What a `.json` says, or why that are no captions."""
    try:
        told = json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return NO_UTF8
    except (ValueError, RecursionError):
        return NO_TEXT
    return told if isinstance(told, dict) else NO_TEXT


def _bytes(content: BinaryIO, span: Span) -> bytes:
    content.seek(span.first)
    return content.read(span.length)
