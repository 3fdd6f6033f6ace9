"""What every step runs: patch sizes, guide, scale; `sampling.spec` makes plans of words."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Patch, short_patch_name
from flexidit_jax.models.flops import FlopCount
from flexidit_jax.sampling.schedule import GuideSchedule, Pair, Schedule, Segment, text_of

Cost: TypeAlias = Callable[[Patch], float]


@dataclass(frozen=True)
class Plan:
    """What every step runs.

    Attributes:
      segments: stretches of steps, in the order executed.
      evaluations: calls of the network, of each of the two predictions, in every step, [steps].
    """

    segments: tuple[Segment, ...]
    evaluations: tuple[int, ...]

    @property
    def schedule(self) -> Schedule:
        """Of the conditional prediction."""
        return _joined((segment.cond_patch, segment.stop - segment.start) for segment in self.segments)

    @property
    def guide(self) -> GuideSchedule | None:
        """Of the guiding prediction; None when nothing guides."""
        guide = _joined((segment.guide_patch, segment.stop - segment.start) for segment in self.segments)
        return None if guide == ((None, len(self.evaluations)),) else guide

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs of modes that it runs, each once, in the order of their first step."""
        return tuple(dict.fromkeys(segment.pair for segment in self.segments))

    def total_cost(self, cost: Cost) -> float:
        """Cost of all calls of the network, the guide's included."""
        return sum(
            sum(cost(patch) for patch in segment.pair if patch is not None)
            * sum(self.evaluations[segment.start : segment.stop])
            for segment in self.segments
        )

    def relative_cost(self, powerful: Patch, cost: Cost) -> float:
        """Cost over that of the same calls all run powerful."""
        return self.total_cost(cost) / self.total_cost(lambda patch: cost(powerful))

    def flops(self, powerful: Patch, cost: Cost, once: float = 0.0) -> FlopCount:
        """FLOPs of all calls and of what is done once, `once`, which every share has on both sides."""
        total, guided = self.total_cost(cost) + once, self.total_cost(lambda patch: cost(powerful)) + once
        return FlopCount(total, total / guided, total / (sum(self.evaluations) * cost(powerful) + once))

    def __str__(self) -> str:
        guide = "none" if self.guide is None else text_of(self.guide)
        return f"{text_of(self.schedule)}; guide: {guide}"


#: (number of weak steps -> plan) -> the plan to run
Choose: TypeAlias = Callable[[Callable[[int], Plan]], Plan]


def within_budget(
    budget: float, steps: int, make: Callable[[int], Plan], share: Callable[[Plan], float], weak: Patch
) -> Plan:
    """The weak-first plan whose cost is nearest to `budget`, at or below it.

    Args:
      budget: share of the cost of running every call powerful, in (0, 1].
      steps: number of steps.
      make: number of weak steps -> plan; it may refuse a number.
      share: the cost of a plan.
      weak: the mode mixed in, for the message.

    Raises:
      UserError: a budget below what running every step weak costs.
    """

    def affordable(n: int) -> bool:
        try:
            return share(make(n)) <= budget + 1e-12
        except UserError:  # the guide would be more powerful: there, if anywhere, it is said
            return True

    n = bisect_left(range(steps + 1), True, key=affordable)
    if n > steps:
        least = np.ceil(share(make(steps)) * 1e4) / 1e4
        name = short_patch_name(weak)
        raise UserError(
            f"budget {budget:g} is below what patch {name} alone costs; the least this model can do is {least:g}"
        )
    return make(n)


def _joined(runs: Any) -> tuple[tuple[Any, int], ...]:
    """Neighbouring runs of the same patch as one."""
    joined: list[tuple[Any, int]] = []
    for patch, count in runs:
        if joined and joined[-1][0] == patch:
            joined[-1] = (patch, joined[-1][1] + count)
        else:
            joined.append((patch, count))
    return tuple(joined)
