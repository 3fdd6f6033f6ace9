"""Records of one shape among those of several, and such records joined again."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np


class Bin(Sequence):
    """The records of a source that are of one shape; what the source says of every record, it says of these."""

    def __init__(self, source: Sequence[Any], numbers: np.ndarray) -> None:
        self._source, self._numbers = source, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, i: int) -> Any:
        return self._source[int(self._numbers[i])]

    @cached_property
    def texts(self) -> Sequence[tuple[str, ...]]:
        """See `data`."""
        return [self._source.texts[number] for number in self._numbers]


def bins_of(source: Sequence[Any]) -> dict[int, Bin]:
    """Those that have records, by their number."""
    return {int(one): Bin(source, np.flatnonzero(source.bins == one)) for one in np.unique(source.bins)}


class Joined(Sequence):
    """Records of several shapes, those of one after those of another.

    Args:
      every: sources, with the `fields` of their records.
      bins: the number of each.
    """

    def __init__(self, every: Sequence[Any], bins: Sequence[int]) -> None:
        self._every, self.fields = every, every[0].fields
        self._ends = np.cumsum([*map(len, every)])
        self.bins = np.repeat(bins, [*map(len, every)])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, i: int) -> Any:
        if not 0 <= i < len(self):
            raise IndexError(i)
        own = int(np.searchsorted(self._ends, i, side="right"))
        return self._every[own][i - int(self._ends[own]) + len(self._every[own])]
