"""Which bin every batch is of: drawn by how many records a bin has, so that each record is read equally often."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from threading import Lock

import numpy as np

#: batches drawn at a time
ROUND = 1024


class BinOrder:
    """The bin of batch n, which depends on the counts, the seed and n alone.

    Args:
      counts: records of every bin, none of which is empty.
      seed: of the draws.
    """

    def __init__(self, counts: Sequence[int], seed: int) -> None:
        self._shares, self._seed, self._lock = np.divide(counts, sum(counts)), seed, Lock()
        self._before = [np.zeros(len(counts), np.int64)]  # batches of every bin before a round
        self._drawn = lru_cache(2)(self._draw)

    def __call__(self, number: int) -> tuple[int, int]:
        """The bin of a batch, and how many batches of that bin come before it; safe in threads."""
        rounds, within = divmod(number, ROUND)
        with self._lock:
            for before in range(len(self._before) - 1, rounds):
                drawn = np.bincount(self._drawn(before), minlength=len(self._shares))
                self._before.append(self._before[before] + drawn)
            bins = self._drawn(rounds)
        own = int(bins[within])
        return own, int(self._before[rounds][own] + np.count_nonzero(bins[:within] == own))

    def _draw(self, number: int) -> np.ndarray:
        """The bins of a round."""
        return np.random.default_rng((self._seed, number)).choice(len(self._shares), ROUND, p=self._shares)
