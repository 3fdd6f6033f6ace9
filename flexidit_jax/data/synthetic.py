"""Images made on the spot: for smoke runs and benchmarks where there is no data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flexidit_jax.common.build import positive
from flexidit_jax.common.errors import UserError


@dataclass(frozen=True)
class Dataset:
    """Smooth waves; the label sets their direction and their colours.

    Attributes:
      shape: (F, H, W, C) of a record.
      classes: labels 0..classes-1, in turn.
      records: how many there are.
      seed: of the phases.
    """

    shape: tuple[int, int, int, int] = (1, 32, 32, 3)
    classes: int = 10
    records: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.shape) != 4 or min(self.shape) < 1:
            raise UserError(f"dataset.shape must be (frames, height, width, channels), got {tuple(self.shape)!r}")
        object.__setattr__(self, "shape", tuple(self.shape))
        positive("dataset", classes=self.classes, records=self.records)

    def source(self) -> Sequence[dict[str, np.ndarray]]:
        """The training records {"x", "label"}."""
        return _Waves(self, 0)

    def held_out(self) -> Sequence[dict[str, np.ndarray]]:
        """As many others."""
        return _Waves(self, self.records)


class _Waves(Sequence):
    """Record i is made when it is asked for; it depends on (seed, i) alone."""

    def __init__(self, dataset: Dataset, first: int) -> None:
        self._dataset, self._first = dataset, first

    def __len__(self) -> int:
        return self._dataset.records

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        frames, height, width, channels = self._dataset.shape
        label = i % self._dataset.classes
        angle = np.pi * label / self._dataset.classes
        phase = np.random.default_rng((self._dataset.seed, self._first + i)).uniform(0, 2 * np.pi)
        f, y, x = np.ogrid[:frames, :height, :width]
        along = np.cos(angle) * x / width + np.sin(angle) * y / height  # one wave across the image
        colours = 2 * np.pi * label * np.arange(1, channels + 1) / self._dataset.classes
        waves = np.sin((2 * np.pi * along + phase + 0.5 * f)[..., None] + colours)
        return {"x": waves.astype(np.float32), "label": np.int32(label)}
