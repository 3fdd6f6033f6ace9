"""Records read by threads while those before them are at work."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from flexidit_jax.common.cores import cores


def read_ahead(source: Sequence[Any], groups: Iterable[Sequence[int]], groups_ahead: int = 2) -> Iterator[list[Any]]:
    """`[source[i] for i in group]` of every group in turn, the next groups being read meanwhile.

    Args:
      source: random access, safe in threads.
      groups: numbers of records.
      groups_ahead: read, or being read, while one is at work: what memory holds.
    """
    pool = ThreadPoolExecutor(cores(), thread_name_prefix="reader")
    waiting: deque[list[Future[Any]]] = deque()
    try:
        for group in groups:
            waiting.append([pool.submit(source.__getitem__, i) for i in group])
            if len(waiting) > groups_ahead:
                yield [record.result() for record in waiting.popleft()]
        while waiting:
            yield [record.result() for record in waiting.popleft()]
    finally:
        pool.shutdown(cancel_futures=True)
