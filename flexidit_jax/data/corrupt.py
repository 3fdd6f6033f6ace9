"""A source without its corrupt records: each is replaced by the next sound one, named once, and counted."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from flexidit_jax.common.cluster.messages import Tally
from flexidit_jax.common.errors import UserError

_LOG = logging.getLogger(__name__)


class Corrupt(Exception):
    """A record whose bytes are there and cannot be decoded, now or ever.

    Args:
      name: what a user would look for.
      reason: what is wrong with it.
    """

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} ({reason})")


def check_share(max_corrupt: float) -> None:
    """Refuses a `dataset.max_corrupt` that is no share."""
    if not 0 <= max_corrupt < 1:
        raise UserError(f"dataset.max_corrupt is a share in [0, 1), such as 0.001, got {max_corrupt!r}")


class Intact(Sequence):
    """Record i, or where reading it raises `Corrupt` the first sound one after it of its bin, around the end.

    What is read for i depends on the source alone, so that every host and every resumed run reads the
    same. Safe to read from several threads. A record found corrupt is logged once, as a warning, and
    not tried again. Counted are distinct records over the life of this object, and, where several
    processes read one source, over all of them (which make their objects in the same order).

    Args:
      source: random access; raises `Corrupt`. Where records are of several shapes, `bins` [len] tells those of one.
      max_corrupt: share of the source that may be corrupt. However small, it admits one record; 0 admits none.
    """

    def __init__(self, source: Sequence[Any], max_corrupt: float) -> None:
        self._source, self._share = source, max_corrupt
        self._admitted = min(max(int(max_corrupt * len(source)), max_corrupt > 0), len(source) - 1)
        self._corrupt: set[int] = set()  # those that this process has met
        self._tally = Tally()
        self._refusal: str | None = None
        self._lock = threading.Lock()
        self._after: np.ndarray | None = None
        if (bins := getattr(source, "bins", None)) is not None:
            self.bins = bins
            self._after = _next_of_bin(bins)
        if (texts := getattr(source, "texts", None)) is not None:
            self.texts = texts

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> Any:
        """Record i.

        Raises:
          UserError: more records are corrupt than may be, at this read or an earlier one.
        """
        n = len(self)
        if not -n <= i < n:
            raise IndexError(i)
        first = i = i % n
        while self._refusal is None:
            if i not in self._corrupt:
                try:
                    return self._source[i]
                except Corrupt as error:
                    self._count(i, error)
            i = (i + 1) % n if self._after is None else int(self._after[i])
            if self._after is not None and i == first and self._refusal is None:
                count = int(np.sum(self.bins == self.bins[i]))
                self._refusal = (
                    f"all {count:,} records of a bin are corrupt, and no sound one can take their place; mend or remove"
                    " them, or train without dataset.bins"
                )
        raise UserError(self._refusal)

    def _count(self, i: int, error: Corrupt) -> None:
        with self._lock:
            if i in self._corrupt:  # another thread was first
                return
            self._corrupt.add(i)
            found = self._tally.add(i)
            if found is None:  # another process was first
                return
            if found <= self._admitted:
                _LOG.warning("corrupt, skipped (%d of at most %d): %s", found, self._admitted, error)
            elif self._refusal is None:
                self._refusal = (
                    f"{found:,} of {len(self):,} records are corrupt, more than dataset.max_corrupt={self._share:g}"
                    f" admits; the last is {error}; mend or remove them, or raise dataset.max_corrupt"
                )


def _next_of_bin(bins: np.ndarray) -> np.ndarray:
    """The number of the next record of the same bin, around the end: int [len]."""
    order = np.argsort(bins, kind="stable")
    after = np.empty_like(order)
    for of_bin in np.split(order, np.flatnonzero(np.diff(bins[order])) + 1):
        after[of_bin] = np.roll(of_bin, -1)
    return after
