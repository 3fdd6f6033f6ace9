"""Losses far out of the usual."""

from __future__ import annotations

from collections import deque
from statistics import median

from flexidit_jax.common.types import Patch

#: losses of a mode that make its usual one, and calm steps after which a spike is over
ENOUGH = 50
WINDOW = 200


class LossSpikes:
    """Notices the first step of every outbreak.

    A spike is a loss of more than `factor` times the median of its mode's last 200 losses, spikes not counted; it
    ends with 50 steps without one. The first 50 losses of a mode are never spikes.

    Args:
      factor: above which a loss is a spike; None notices nothing.
    """

    def __init__(self, factor: float | None) -> None:
        self._factor = factor
        self._usual: dict[Patch, deque[float]] = {}
        self._calm = ENOUGH

    def starts(self, patch: Patch, loss: float) -> float | None:
        """Takes the loss of the next step; the usual loss where an outbreak starts, else None."""
        if self._factor is None:
            return None
        seen = self._usual.setdefault(patch, deque(maxlen=WINDOW))
        usual = median(seen) if len(seen) >= ENOUGH else None
        if usual is None or loss <= self._factor * usual:
            seen.append(loss)
            self._calm += 1
            return None
        first, self._calm = self._calm >= ENOUGH, 0
        return usual if first else None
