"""The folder of one part of an encoded dataset, as `data.latents` reads it: array records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.config import NO_DEFAULTS
from flexidit_jax.data.latents import record_dtype
from flexidit_jax.runs.record_shards import PER_FILE, PER_RECORD, RecordShards


class LatentShards(RecordShards):
    """Posteriors 0 .. num - 1; see `Shards`. `words` hold the fields of one as `record` (`data.latents.layout`)."""

    items = "latents"

    def __init__(self, folder: Path, words: Mapping[str, Any], defaults: Mapping[str, Any] = NO_DEFAULTS) -> None:
        super().__init__(folder, words, defaults)
        self.dtype = record_dtype(words["record"])

    def size(self, shards: Sequence[int]) -> int:
        """Bytes at most of the files of `shards`."""
        return self.count(shards) * (self.dtype.itemsize + PER_RECORD) + len(shards) * PER_FILE

    def _save(self, path: Path, shard: int, records: np.ndarray) -> None:
        if records.dtype != self.dtype or records.shape != (len(self.numbers(shard)),):
            raise ValueError(f"shard {shard} holds {len(self.numbers(shard))} records, got {records.shape}")
        self._write(path, (record.tobytes() for record in records))
