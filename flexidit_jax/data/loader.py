"""Batches from a random-access source, shuffled, endless, and with a position to checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import grain
import numpy as np


class Batches(Protocol):
    """An endless iterator of `{"x": [B, ...], ...}` whose position is a JSON-ready dict."""

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]: ...
    def __next__(self) -> dict[str, np.ndarray]: ...
    def get_state(self) -> dict[str, Any]: ...
    def set_state(self, state: dict[str, Any]) -> None: ...


def batches(
    source: Sequence[Any],
    batch: int,
    seed: int,
    augment: Callable[[Any, np.random.Generator], Any] | None = None,
    threads: int = 1,
    host: int = 0,
    hosts: int = 1,
) -> Batches:
    """Reshuffles the source every epoch; batches run across epoch ends.

    Args:
      source: random-access records.
      batch: records per batch.
      seed: of the order and of `augment`; the n-th batch depends on it alone.
      augment: (record, rng) -> record, drawn anew for every record of every epoch.
      threads: readers.
      host, hosts: this one keeps rows host * batch / hosts and so on, batch / hosts of them.
    """
    dataset = grain.MapDataset.source(source).seed(seed).shuffle().repeat()
    if augment is not None:
        dataset = dataset.random_map(augment)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=16)
    mine = slice(host * batch // hosts, (host + 1) * batch // hosts)
    rows = dataset.batch(batch).map(lambda whole: {key: value[mine] for key, value in whole.items()})
    return iter(rows.to_iter_dataset(options))
