"""A folder of many numbered items in whole files of equal numbers of them.

    manifest.json       the words that every item depends on
    shards/000000.*     items 0 .. shard - 1; the last file holds what is left

A file appears under its name when it is whole, so that a kill at any moment costs the items that were
in the making: the next start makes those that are missing or not whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from flexidit_jax.common.config import NO_DEFAULTS, difference
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import shard_file, unfinished, written_aside
from flexidit_jax.runs.disk import in_bytes
from flexidit_jax.runs.lock import at_work

MANIFEST = "manifest.json"


def of_host(shards: Sequence[int], host: int, hosts: int) -> list[int]:
    """Those of `shards` that one of several hosts makes: i is host i % hosts's, whatever else is there already."""
    return [shard for shard in shards if shard % hosts == host]


class Shards:
    """The items of one folder, 0 .. num - 1. What they are and how a file holds them, a subclass says.

    Args:
      folder: made by `claimed`.
      words: JSON-ready; what every item depends on. Beside others `num` and `shard` (items a file).
      defaults: what a word means that is left out (see `common.config.difference`).

    Raises:
      UserError: the folder holds items made with other words; the first key that differs is named.
    """

    #: whether more items may be asked for than were; the manifest then keeps the number of before until all are there
    grows = False
    #: what items are called, the folder of their files, and what else shows that there are some
    items, within = "items", "shards"
    suffix = ""
    extra: tuple[str, ...] = ()

    def __init__(self, folder: Path, words: Mapping[str, Any], defaults: Mapping[str, Any] = NO_DEFAULTS) -> None:
        self.folder, self._words = folder, dict(words)
        self._num, self._size = words["num"], words["shard"]
        there = self.recorded(folder)
        self._asked_before = self._num
        if self.grows and type(before := there.get("num")) is int and before > 0:
            if before > self._num:
                raise UserError(
                    f"{folder} was asked for {before} {self.items}, and --num={self._num} is fewer; go on with"
                    f" --num={before} or more, or name another --out"
                )
            self._asked_before = before
            there = there | {"num": self._num}
        differs = difference(self._words, there, defaults) if there else None
        if differs is not None:
            key, ours, theirs = differs
            raise UserError(
                f"{folder} holds {self.items} made with other words: {key} is {theirs!r} there, {ours!r} here;"
                " name another --out, or go back to that value"
            )

    @classmethod
    def recorded(cls, folder: Path) -> dict[str, Any]:
        """The words of the items in `folder`, {} where there are none.

        Raises:
          UserError: files of something else, or a manifest that cannot be read.
        """
        file = folder / MANIFEST
        try:
            words = json.loads(file.read_text())
        except FileNotFoundError:
            if any((folder / name).exists() for name in (cls.within, *cls.extra)):
                raise UserError(f"{folder} holds {cls.items} without a {MANIFEST}; name another --out") from None
            return {}
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({error}); name another --out") from None
        shard = words.get("shard") if isinstance(words, dict) else None
        if type(shard) is not int or shard < 1:
            raise UserError(f"{file} is no manifest of {cls.items}; name another --out")
        return words

    def numbers(self, shard: int) -> range:
        """Of the items in a shard."""
        return range(shard * self._size, min((shard + 1) * self._size, self._num))

    def missing(self) -> list[int]:
        """The shards that are not there, or not whole."""
        return [shard for shard in self.all if not self._whole(shard)]

    def count(self, shards: Sequence[int]) -> int:
        """Items in all of `shards`."""
        return sum(len(self.numbers(shard)) for shard in shards)

    def pieces(self, shards: Sequence[int], most: int) -> Iterator[range]:
        """The numbers of items that are made at once, at most so many; no piece reaches into another shard."""
        for numbers in map(self.numbers, shards):
            yield from (numbers[first : first + most] for first in range(0, len(numbers), most))

    @contextmanager
    def claimed(self, host: int = 0, hosts: int = 1) -> Iterator[None]:
        """Makes the folder, records the words and keeps other commands out meanwhile.

        Args:
          host: the number of this process among `hosts` that write one folder, each shards of its own.

        Raises:
          UserError: it cannot be written, or another command is at work in it.
        """
        with ExitStack() as working:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                working.enter_context(at_work(self.folder, "name another --out", shared=hosts > 1))
                own = map(self.path, of_host(self.all, host, hosts))
                whole = [self.folder / name for name in (MANIFEST, *self.extra)] if host == 0 else []
                for path in (*whole, *own):
                    unfinished(path).unlink(missing_ok=True)  # left by a kill
                self._record(host)
                (self.folder / self.within).mkdir(exist_ok=True)
            except OSError as error:
                raise self.refused(error) from None
            yield

    def write(self, shard: int, content: Any) -> None:
        """Writes the items of a shard.

        Raises:
          UserError: the disk is full, or the folder cannot be written; whole shards stay.
        """
        try:
            with written_aside(self.path(shard)) as aside:
                self._save(aside, shard, content)
                on_disk(aside)
        except OSError as error:
            raise self.refused(error) from None

    def check_space(self, needed: int, what: str, others: str = "") -> None:
        """Refuses a disk without room for `needed` bytes; `what` says for what, `others` what else would do.

        Raises:
          UserError: with what is needed and what is free.
        """
        existing = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if needed > free:
            raise UserError(
                f"{self.folder} needs {in_bytes(needed)} more for {what}, and {in_bytes(free)} are free; make room, or"
                f" name another --out{others}"
            )

    @property
    def all(self) -> range:
        """The numbers of the shards."""
        return range(-(-self._num // self._size))

    def path(self, shard: int) -> Path:
        """The file of a shard."""
        return shard_file(self.folder, shard, self.suffix)

    def refused(self, error: OSError) -> UserError:
        """What is said of a disk that does not take what it is given."""
        return UserError(
            f"cannot write to {self.folder} ({error.strerror}); whole shards stay, and once that is mended the same"
            " command goes on"
        )

    def _save(self, path: Path, shard: int, content: Any) -> None:
        """Writes a shard to `path`; raises OSError where that fails."""
        raise NotImplementedError

    def _whole(self, shard: int) -> bool:
        """Whether the file of a shard is there and holds all its items."""
        raise NotImplementedError

    def _record(self, host: int) -> None:
        """Hosts write the same words under names of their own; the last to be renamed stays."""
        aside = self.folder / (MANIFEST if host == 0 else f"{MANIFEST}.{host}")
        with written_aside(aside) as file:
            file.write_text(json.dumps(self._words | {"num": self._asked_before}, indent=2) + "\n")
        if host:
            aside.replace(self.folder / MANIFEST)


def on_disk(path: Path) -> None:
    """Returns when what `path` holds is on the disk: a new name must not reach it before."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
