"""Training metrics: gathered without waiting for the device, written and checked every so often."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress
from flexidit_jax.common.types import Array, Patch, short_patch_name
from flexidit_jax.training.monitor.event_files import Writer
from flexidit_jax.training.monitor.loss_spikes import LossSpikes


class MetricLog:
    """Collects each step's metrics on the device and fetches them together.

    Args:
      writer: clu's writer; gets `<metric>/patch_<p>` averaged since the last flush, and `loss/patch_<p>/quartile_1`
        to `_4` over the records of each quarter of the way to noise (low noise first) that had any.
      bar: shows the loss.
      spikes: notices outbreaks.
      batch: says in words which batch a step took.
    """

    def __init__(self, writer: Writer, bar: Progress, spikes: LossSpikes, batch: Callable[[int], str]) -> None:
        self._writer, self._bar, self._spikes, self._batch = writer, bar, spikes, batch
        self._pending: list[tuple[int, Patch, dict[str, Array]]] = []

    def add(self, number: int, patch: Patch, metrics: dict[str, Array]) -> None:
        """Remembers the metrics of step `number`, trained at `patch`."""
        self._pending.append((number, patch, metrics))
        if len(self._pending) > 1:  # stay at most one step ahead, so that the bar tells the truth
            jax.block_until_ready(self._pending[-2][2]["loss"])

    def flush(self, number: int, more: Mapping[str, float]) -> list[str]:
        """Checks and writes everything since the last flush.

        Args:
          number: the step it is written for.
          more: scalars to write beside.

        Returns:
          A line for every outbreak of the loss, naming step, mode and batch.

        Raises:
          UserError: a loss or gradient norm that is not finite, naming them too.
        """
        said: list[str] = []
        groups: dict[str, list[float]] = defaultdict(list)
        quarters: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((2, 4)))
        fetched: list[tuple[int, Patch, dict[str, Any]]] = jax.device_get(self._pending)
        self._pending = []
        for step, patch, metrics in fetched:
            sums_and_counts = metrics.pop("quartile_sums"), metrics.pop("quartile_counts")
            where = f"at step {step} (patch {short_patch_name(patch)}, {self._batch(step)})"
            for name in sorted(metrics, reverse=True):  # the loss and its terms before the gradient norm
                if not math.isfinite(metrics[name]):
                    raise UserError(
                        f"the {name} is {float(metrics[name])} {where}; nothing is saved from there on: in a new"
                        " --workdir lower the learning rate or set train.optimizer.clip"
                    )
            usual = self._spikes.starts(patch, float(metrics["loss"]))
            if usual is not None:
                said.append(f"the loss jumps to {float(metrics['loss']):.4g} from {usual:.4g} {where}")
            for name, value in metrics.items():
                groups[f"{name}/patch_{short_patch_name(patch)}"].append(float(value))
            quarters[f"loss/patch_{short_patch_name(patch)}"] += sums_and_counts
        if fetched:
            means = {name: sum(values) / len(values) for name, values in groups.items()}
            by_time = {
                f"{name}/quartile_{i}": float(total / count)
                for name, rows in quarters.items()
                for i, (total, count) in enumerate(rows.T, 1)
                if count
            }
            self._writer.write_scalars(number, {**means, **by_time, **more})
            losses = [f"{name.removeprefix('loss/')} {value:.3f}" for name, value in means.items() if "loss/" in name]
            pace = [f"{more['samples_per_second']:.4g} samples/s"] if "samples_per_second" in more else []
            self._bar.note(", ".join(["loss " + ", ".join(sorted(losses)), *pace]))
        return said
