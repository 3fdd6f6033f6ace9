"""What is written of a training step's metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flexidit_jax.training.monitor.loss_spikes import LossSpikes
from flexidit_jax.training.monitor.metric_log import MetricLog


class Written:
    """Stands for the writer and the bar."""

    def __init__(self) -> None:
        self.scalars: dict[str, float] = {}
        self.words = ""

    def write_scalars(self, number: int, scalars: dict[str, float]) -> None:
        self.scalars = scalars

    def note(self, words: str) -> None:
        self.words = words


def test_quarters_are_means_over_records_and_empty_ones_are_left_out() -> None:
    seen: Any = Written()
    log = MetricLog(seen, seen, LossSpikes(None), str)
    for number, (sums, counts) in enumerate((([1, 0, 4, 0], [1, 0, 2, 0]), ([3, 0, 2, 6], [3, 0, 4, 2]))):
        row = {"loss": np.float32(number), "quartile_sums": np.array(sums), "quartile_counts": np.array(counts)}
        log.add(number, (1, 4, 4), row)
    assert log.flush(2, {"samples_per_second": 12.0}) == []
    assert seen.scalars.pop("samples_per_second") == 12
    assert seen.scalars.pop("loss/patch_4") == 0.5
    quarters = {f"loss/patch_4/quartile_{i}": mean for i, mean in ((1, 1.0), (3, 1.0), (4, 3.0))}
    assert seen.scalars == pytest.approx(quarters)
    assert all(type(value) is float for value in seen.scalars.values())
    assert seen.words == "loss patch_4 0.500, 12 samples/s"
