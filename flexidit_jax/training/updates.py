"""How often leaves were updated: less often than the optimizer stepped, since a mode's own rest while others train.

Adam corrects its moments by that number, and a moving average warms up by it. The mode of a step follows from (seed,
step), so none of it is saved: it is counted again at every start.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from flexidit_jax.common.types import Patch
from flexidit_jax.training.stages import Stage

#: what a checkpoint says of its state; one that says nothing counted the steps of a stage for all modes alike
COUNTS = "updates of each mode"


class Updates(NamedTuple):
    """What a step is told: updates made before it, int32 scalars, where it trains one mode.

    Attributes:
      own: of that mode's own leaves in this stage, with which their moments began.
      age: of that mode's own leaves since they came to be; a stage that goes on with the same modes keeps it.
      shared: of the leaves that all modes train, since the run began.
    """

    own: np.int32
    age: np.int32
    shared: np.int32


class UpdateCounts:
    """The counts along a run.

    Args:
      stages, seed: of the run.
      done: steps done; their modes are drawn again.
    """

    def __init__(self, stages: Sequence[Stage], seed: int, done: int = 0) -> None:
        self._own: Counter[Patch] = Counter()
        self._age: Counter[Patch] = Counter()
        self._number, self._keeps = 0, {}
        begin = 0
        for before, stage in zip((None, *stages), stages):
            self._keeps[begin] = before is not None and stage.goes_on(before)
            for number in range(begin, min(begin + stage.steps, done)):
                self.next(stage.patches[0] if len(stage.patches) == 1 else stage.mode(seed, number))
            begin += stage.steps

    def next(self, patch: Patch) -> Updates:
        """Of the next step, which trains `patch`."""
        if (keeps := self._keeps.get(self._number)) is not None:  # a stage begins
            self._own.clear()
            if not keeps:
                self._age.clear()
        updates = Updates(*map(np.int32, (self._own[patch], self._age[patch], self._number)))
        self._own[patch] += 1
        self._age[patch] += 1
        self._number += 1
        return updates
