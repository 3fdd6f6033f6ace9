"""Batches from a random-access source, shuffled, endless, and with a position to checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import grain
import numpy as np


class Batches(Protocol):
    """An endless iterator of `{"x": [B, ...], ...}` whose position is a JSON-ready dict."""

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: ...
    def __next__(self) -> dict[str, np.ndarray]: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...


def batches(source: Sequence[Any], batch: int, seed: int, threads: int = 1) -> Batches:
    """Reshuffles the source every epoch; batches run across epoch ends.

    Args:
      source: random-access records.
      batch: records per batch.
      seed: of the order; the n-th batch depends on it alone.
      threads: readers.
    """
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat().batch(batch)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=16)
    return iter(dataset.to_iter_dataset(options))
