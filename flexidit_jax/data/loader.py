"""Batches from a random-access source, shuffled, endless, read ahead, and with a position to checkpoint.

Records of several shapes come in batches of one shape each: their source says of every record which bin it is in
(`bins`, int [len]). Readers are threads: decoding and resizing release the interpreter's lock, and a process would have
to send every decoded record back (`benchmarks/input.py` measures both).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import grain
import numpy as np

from flexidit_jax.data.bin_order import BinOrder
from flexidit_jax.data.bins import bins_of

#: records that a reader thread takes at a time, at most: handing over one costs more than reading a small one
CHUNK = 8


class Batches(Iterator):
    """An endless iterator of this host's rows of every batch, `{"x": [rows, ...], ...}`.

    The n-th batch depends on the source, the batch size and the seed alone: neither on the number of hosts
    and threads, nor on where reading began. `get_state` is a JSON-ready dict that holds n, and no more.
    """

    def __init__(self, rows: _Rows, count: int, threads: int) -> None:
        chunk = max(c for c in range(1, min(CHUNK, count) + 1) if count % c == 0)
        self._chunks = count // chunk  # a batch
        ahead = max(2 * self._chunks, threads) if threads else 0
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
        chunks = grain.MapDataset.source(rows).batch(chunk).to_iter_dataset(options)
        self._reader = iter(chunks.batch(self._chunks, batch_fn=_joined))

    def __next__(self) -> dict[str, np.ndarray]:
        return next(self._reader)

    def get_state(self) -> dict[str, int]:
        """The position: batches read."""
        return {"next_index": self._reader.get_state()["next_index"] // self._chunks}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to a position, of this or any other stream of the same source, batch size and seed."""
        self._reader.set_state({"next_index": state["next_index"] * self._chunks})

    def close(self) -> None:
        """Stops the reader threads."""
        self._reader.close()


def batches(
    source: Sequence[Any],
    batch: int,
    seed: int,
    augment: Callable[[Any, np.random.Generator], Any] | None = None,
    threads: int = 1,
    host: int = 0,
    hosts: int = 1,
) -> Batches:
    """Reshuffles the source, or each of its bins, every epoch; batches run across epoch ends.

    Args:
      source: random-access records; read from several threads at once. Where it has `bins`, a batch is of one bin.
      batch: records per batch, over all hosts.
      seed: of the order and of `augment`; the n-th batch depends on it alone.
      augment: (record, rng) -> record, drawn anew for every record of every epoch.
      threads: readers, two batches ahead; 0 reads in the caller's thread.
      host: which of the `hosts`: it reads rows host * batch / hosts and so on, batch / hosts of them, of every
        batch, so that in the order of hosts the rows are those of a single host.
      hosts: how many; they must divide the batch.
    """
    if batch % hosts or not 0 <= host < hosts:
        raise ValueError(f"host {host} of {hosts} has no rows of a batch of {batch}")
    parts, order = [source], None
    if getattr(source, "bins", None) is not None:
        parts = [*bins_of(source).values()]
        order = BinOrder([*map(len, parts)], seed)

    def shuffled(number: int, part: Sequence[Any]) -> grain.MapDataset:
        own = seed if order is None else int(np.random.SeedSequence((seed, number)).generate_state(1)[0])
        dataset = grain.MapDataset.source(part).seed(own).shuffle().repeat()
        return dataset if augment is None else dataset.random_map(augment)

    count = batch // hosts
    rows = _Rows([shuffled(number, part) for number, part in enumerate(parts)], order, batch, host * count, count)
    return Batches(rows, count, threads)


class _Rows(Sequence):
    """The records of one host: `count` from row `first` on of every batch."""

    def __init__(
        self, parts: Sequence[grain.MapDataset], order: BinOrder | None, batch: int, first: int, count: int
    ) -> None:
        self._parts, self._order, self._batch, self._first, self._count = parts, order, batch, first, count

    def __len__(self) -> int:
        return min(map(len, self._parts)) // self._batch * self._count

    def __getitem__(self, i: int) -> Any:
        number, row = divmod(i, self._count)
        part, number = (0, number) if self._order is None else self._order(number)
        return self._parts[part][number * self._batch + self._first + row]


def _joined(chunks: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]}
