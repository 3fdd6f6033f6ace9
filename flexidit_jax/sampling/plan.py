"""From the words of a user to what every step runs: patch sizes, guide, scale."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Patch, short_patch_name
from flexidit_jax.sampling.guidance import weak_guide_scale
from flexidit_jax.sampling.schedule import (
    GuideSchedule,
    Schedule,
    Segment,
    constant,
    parse,
    parse_guide,
    parse_numbers,
    powerful_last,
    segments,
    text_of,
    weak_first,
)

Cost = Callable[[Patch], float]


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

    def __str__(self) -> str:
        guide = "none" if self.guide is None else text_of(self.guide)
        return f"{text_of(self.schedule)}; guide: {guide}"


def plan(
    patches: Sequence[Patch],
    cost: Cost,
    times: Sequence[float],
    schedule: str | None = None,
    budget: float | None = None,
    guide: str | None = None,
    guidance: float | str = 1.0,
    weak_guidance: float | str | None = None,
    guidance_interval: tuple[float, float] | None = None,
    weak: Patch | None = None,
    evaluations: Sequence[int] | None = None,
    choose: Callable[[Callable[[int], Plan]], Plan] | None = None,
) -> Plan:
    """What a user asked for.

    Args:
      patches: the model's modes, powerful first.
      cost: FLOPs of one call in a mode.
      times: of every step, [steps], as the network is told them.
      schedule: `"4:120,2:130"`, or the paper's `"90/50"`: the last 90 conditional and the last 50
        guiding steps are powerful. Without it and without a budget every step is powerful.
      budget: share of the FLOPs of running every call powerful; mixes the most powerful mode with
        `weak`, by default the weakest.
      guide: schedule of the guide, `none` for steps without; None means the same as the conditional one.
      guidance: s1, or a number for every step; where it is 1 no guide runs.
      weak_guidance: s2, the scale where a weaker mode guides; None ties it to s1 (`sampling.guidance`).
      guidance_interval: (lowest, highest) time at which a guide runs (arXiv 2404.07724).
      weak: the mode that a budget or `"x/y"` mixes in.
      evaluations: calls of every step; one each by default.
      choose: instead of a schedule or a budget, picks from the weak-first plans, of which it is handed the
        maker: number of weak steps -> plan.

    Raises:
      UserError: more than one of schedule, budget and choose, or what the parts refuse.
    """
    steps = len(times)
    if schedule is not None and budget is not None:
        raise UserError(f"give a schedule or a budget, not both (schedule={schedule!r}, budget={budget!r})")
    if choose is not None and (schedule is not None or budget is not None):
        raise UserError(f"latency_ms goes without a schedule or a budget (schedule={schedule!r}, budget={budget!r})")
    if weak is not None and weak not in patches:
        known = ", ".join(map(short_patch_name, patches))
        raise UserError(f"weak={short_patch_name(weak)} is not a mode of this model; it has {known}")
    schedule, guide = (None if text is None else str(text) for text in (schedule, guide))
    powerful, weakest = patches[0], weak or min(patches, key=cost)
    guidance = parse_numbers(guidance, steps, "guidance")
    weak_scale = weak_guide_scale(guidance)
    if weak_guidance is not None:
        weak_scale = parse_numbers(weak_guidance, steps, "weak_guidance")
    inside = _inside(guidance_interval, np.asarray(times))
    scales = (np.where(inside, guidance, 1.0), np.where(inside, weak_scale, 1.0))
    evaluations = (1,) * steps if evaluations is None else tuple(map(int, evaluations))

    def whole(conditional: Schedule, guiding: GuideSchedule | None = None) -> Plan:
        if guiding is None:
            guiding = conditional if guide is None else parse_guide(guide, steps, patches)
        return Plan(segments(conditional, guiding, *scales), evaluations)

    def by_weak_steps(n: int) -> Plan:
        return whole(weak_first(weakest, powerful, n, steps))

    counts = re.fullmatch(r"([0-9]+)/([0-9]+)", schedule or "")
    if counts:
        if guide is not None:
            raise UserError(f"schedule {schedule!r} speaks for the guide too; leave out guide={guide!r}")
        return whole(*powerful_last(weakest, powerful, int(counts[1]), int(counts[2]), steps))
    if schedule is not None:
        return whole(parse(schedule, steps, patches))
    if budget is not None:
        return within_budget(budget, steps, by_weak_steps, lambda plan: plan.relative_cost(powerful, cost), weakest)
    if choose is not None:
        return choose(by_weak_steps)
    return whole(constant(powerful, steps))


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
      UserError: a budget outside (0, 1], or below what running every step weak costs.
    """
    if not 0 < budget <= 1:
        raise UserError(f"budget must lie in (0, 1] (1 runs every step powerful), got {budget!r}")

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


def _inside(interval: tuple[float, float] | None, times: np.ndarray) -> np.ndarray:
    if interval is None:
        return np.ones(len(times), bool)
    if not _ordered(interval):
        raise UserError(f"guidance_interval must be (lowest, highest) of the times guided, got {interval!r}")
    return (interval[0] <= times) & (times <= interval[1])


def _ordered(interval: Any) -> bool:
    numbers = isinstance(interval, Sequence) and all(isinstance(end, (int, float)) for end in interval)
    return numbers and len(interval) == 2 and interval[0] <= interval[1]


def _joined(runs: Any) -> tuple[tuple[Any, int], ...]:
    """Neighbouring runs of the same patch as one."""
    joined: list[tuple[Any, int]] = []
    for patch, count in runs:
        if joined and joined[-1][0] == patch:
            joined[-1] = (patch, joined[-1][1] + count)
        else:
            joined.append((patch, count))
    return tuple(joined)
