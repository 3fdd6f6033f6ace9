"""What there is to see of samples under way, and what is said of those that end as no numbers.

A sample whose latents become NaN or infinite is lost, and it alone: all others are drawn to their end first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Array

#: of so many lost samples a message tells the step
TOLD = 4


class Snapshot(NamedTuple):
    """A batch of samples between two steps.

    Attributes:
      done, steps: int [B], the steps each sample has made, and how many it makes.
      seeds: int [B], of each sample's noise.
      x: [B, F, H, W, C], where the network is evaluated next; x_0 of samples that are finished.
      x0: [B, F, H, W, C], the network's latest estimate of x_0: previews decode it.
      lost: [B, 1, 1, 1, 1], the step that made x NaN or infinite, counted from 0; -1 of samples that are sound.
      count: the first so many are samples; the others fill the batch up.
    """

    done: np.ndarray
    steps: np.ndarray
    seeds: np.ndarray
    x: Array
    x0: Array
    lost: Array
    count: int

    @property
    def finished(self) -> bool:
        """Whether all of them are."""
        return bool((self.done == self.steps).all())

    @property
    def failed(self) -> np.ndarray:
        """Which samples are NaN or infinite by now, int [...]; asking waits for the device."""
        return np.flatnonzero(np.ravel(self.lost)[: self.count] >= 0)

    def cut(self) -> Snapshot:
        """Without what fills the batch up."""
        if self.count == len(self.done):
            return self
        return Snapshot(*(leaf[: self.count] for leaf in self[:-1]), self.count)

    def blanked(self) -> Snapshot:
        """With zeros for the samples that failed."""
        if not np.any(lost := np.asarray(self.lost) >= 0):
            return self
        return self._replace(x=np.where(lost, 0, self.x), x0=np.where(lost, 0, self.x0))


class NotFinite(UserError):
    """Samples that became NaN or infinite on the way, and only they: the others are what they are without them.

    Attributes:
      images: what the call would have returned, zeros for the samples that failed; None of `FlexiDiT.steps`, which has
        yielded all there is.
      failed: their indices in the call, ascending.
      rows: (number, after, steps) of each: its number of its seed, which messages tell, and after how many of its steps
        it first was not finite.
    """

    status = 1

    def __init__(self, rows: Sequence[tuple[int, int, int]], total: int, first: int = 0) -> None:
        """`total` samples were asked for; `first` is the number of the first."""
        self.rows, self.failed = tuple(rows), tuple(number - first for number, _, _ in rows)
        self.images: np.ndarray | None = None
        told = [f"number {number} after {k} of {n} steps" for number, k, n in rows[:TOLD]]
        told += [f"{len(rows) - TOLD} more"] if len(rows) > TOLD else []
        others = "; the others are sound" if len(rows) < total else ""
        super().__init__(
            f"{len(rows)} of {total} samples became NaN or infinite: {', '.join(told)}{others};"
            " less guidance may help, else look for weights that are damaged or too large"
        )

    @classmethod
    def check(cls, lost: np.ndarray, steps: np.ndarray, first: int) -> None:
        """Raises where some samples of a call failed: `lost` [n] as in `Snapshot`, `steps` [n] of each."""
        if (failed := np.flatnonzero(lost >= 0)).size:
            rows = [(first + int(i), int(lost[i]) + 1, int(steps[i])) for i in failed]
            raise cls(rows, len(lost), first)


def gathered(chain: Iterable[Snapshot], made: Callable[[Array], np.ndarray]) -> np.ndarray:
    """The samples of all batches of a chain, finished and `made` into what is asked for.

    Raises:
      NotFinite: with all of them.
    """
    parts = []
    try:
        for snapshot in chain:
            if snapshot.finished:
                parts.append(made(snapshot.blanked().x)[: snapshot.count])
    except NotFinite as error:
        error.images = np.concatenate(parts)
        error.images[list(error.failed)] = 0
        raise
    return np.concatenate(parts)
