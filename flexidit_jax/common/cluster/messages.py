"""What the processes of a job tell each other, through the coordination service: no computation is shared."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.errors import UserError

_boards, _tallies = itertools.count(), itertools.count()  # alike in every process, so that a number names a folder


def gathered(what: str, told: Any, patience: float = cluster.PATIENCE) -> list[Any]:
    """What every process tells, in their order; `[told]` of one alone.

    Args:
      what: what it is, in words.
      told: JSON-ready.
      patience: seconds.

    Raises:
      UserError: one did not come (see `cluster.wait`).
    """
    board = Board()
    board.put(told)
    cluster.wait(what, patience)
    return board.read()


def first_does(what: str, do: Callable[[], object], patience: float = cluster.PATIENCE) -> None:
    """The first of several processes does it; where it is refused, it is so for all.

    Args:
      what: what it is, in words.
      patience: seconds that the others wait.

    Raises:
      UserError: what the first refuses, on every process; or it did not come.
    """
    refused = None
    if cluster.first():
        try:
            do()
        except UserError as error:
            refused = str(error)
    refused, *_ = gathered(what, refused, patience)
    if refused:
        raise UserError(refused)


def same(what: str, told: Mapping[str, Any]) -> None:
    """Compares what every process was told with process 0's.

    Args:
      what: what is compared, in words.
      told: names and values, JSON-ready.

    Raises:
      UserError: on every process: the first process that differs, and in what; or one did not come.
    """
    first, *others = gathered(what, {name: _short(value) for name, value in told.items()})
    for process, found in enumerate(others, 1):
        for name, theirs in found.items():
            if theirs != (ours := first.get(name)):
                raise UserError(
                    f"{name} is {theirs} for {cluster.name(process)} and {ours} for {cluster.name(0)};"
                    " it must be the same"
                )


class Board:
    """What processes have put up so far, one value each; nobody waits. They make their boards in the same order."""

    def __init__(self) -> None:
        self._folder, self._alone = f"flexidit_jax/board/{next(_boards)}/", []

    def put(self, value: Any) -> None:
        """Puts up this process's, JSON-ready, in place of what it put before."""
        if cluster.several():
            cluster.client().key_value_set(f"{self._folder}{cluster.index()}", json.dumps(value), allow_overwrite=True)
        else:
            self._alone = [value]

    def read(self) -> list[Any]:
        """What is there, in the order of the processes."""
        if not cluster.several():
            return self._alone
        there = cluster.client().key_value_dir_get(self._folder)
        found = {int(key.rpartition("/")[2]): json.loads(value) for key, value in there}
        return [found[process] for process in sorted(found)]


class Tally:
    """Counts different items over all processes, which make their tallies in the same order. Safe in threads."""

    def __init__(self) -> None:
        self._folder = f"flexidit_jax/tally/{next(_tallies)}/"
        self._items: set[int] = set()

    def add(self, item: int) -> int | None:
        """How many there are with `item`; None where it is among them already."""
        if not cluster.several():
            if item in self._items:
                return None
            self._items.add(item)
            return len(self._items)
        import jax

        try:
            cluster.client().key_value_set(f"{self._folder}{item}", "-")
        except jax.errors.JaxRuntimeError as error:
            if "ALREADY_EXISTS" in str(error):
                return None
            raise
        return len(cluster.client().key_value_dir_get(self._folder))


def _short(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return text if len(text) <= 60 else f"one of hash {hashlib.sha256(text.encode()).hexdigest()[:8]}"
