"""Which patch size predicts at which step: schedules as data (FlexiDiT section 3.3).

A *schedule* is `[(patch, steps), ...]` in the order executed, noise first; `"4:120,2:130"` is 120
weak steps, then 130 powerful ones. The conditional and the guiding prediction may follow different
schedules; `segments` joins the two into stretches of steps that run one program.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Patch, as_patch, short_patch_name
from flexidit_jax.sampling.guidance import segment_scale

Schedule: TypeAlias = tuple[tuple[Patch, int], ...]
#: conditional and guiding; None when nothing guides
Plan: TypeAlias = tuple[Schedule, Schedule | None]


class Segment(NamedTuple):
    """Steps [start, stop) that run the same program.

    Attributes:
      start, stop: executed steps, 0 the noisiest.
      cond_patch: patch size of the conditional prediction.
      guide_patch: patch size of the guide, None when nothing guides.
      scale: guidance scale, 1 when nothing guides.
      packing: how two predictions of two lengths share a step (see `sampling.packing`).
    """

    start: int
    stop: int
    cond_patch: Patch
    guide_patch: Patch | None
    scale: float
    packing: str = "separate"

    @property
    def pair(self) -> tuple[Patch, Patch | None]:
        """The conditional and the guiding patch."""
        return self.cond_patch, self.guide_patch

    @property
    def two_lengths(self) -> bool:
        """Whether a weaker mode guides, so that the packing matters."""
        return self.guide_patch not in (None, self.cond_patch)


def parse(text: str, steps: int, patches: Sequence[Patch]) -> Schedule:
    """Reads `"4:120,2:130"`.

    Raises:
      UserError: not of that form, a patch the model lacks, or steps that do not add up to `steps`.
    """
    schedule = []
    for entry in text.split(","):
        patch_text, colon, count_text = entry.strip().partition(":")
        if not colon or not re.fullmatch("[0-9]+", count_text):
            raise UserError(f"schedule {text!r} is not of the form patch:steps,patch:steps (such as 4:120,2:130)")
        schedule.append((as_patch(patch_text), int(count_text)))
    total = sum(count for _, count in schedule)
    if total != steps:
        raise UserError(f"schedule {text!r} adds up to {total} steps, but steps={steps}")
    for patch, _ in schedule:
        if patch not in patches:
            known = ", ".join(map(short_patch_name, patches))
            raise UserError(f"schedule {text!r} uses patch {short_patch_name(patch)}; the model has {known}")
    return tuple((patch, count) for patch, count in schedule if count)


def text_of(schedule: Schedule) -> str:
    """The inverse of `parse`."""
    return ",".join(f"{short_patch_name(patch)}:{count}" for patch, count in schedule)


def constant(patch: Patch, steps: int) -> Schedule:
    """Every step at one patch size."""
    return ((patch, steps),)


def weak_first(weak: Patch, powerful: Patch, weak_steps: int, steps: int) -> Schedule:
    """The paper's order: the noisy steps run weak, the last `steps - weak_steps` powerful."""
    return tuple((p, n) for p, n in ((weak, weak_steps), (powerful, steps - weak_steps)) if n)


def weak_last(weak: Patch, powerful: Patch, weak_steps: int, steps: int) -> Schedule:
    """The reverse order, for comparison (Fig. 19)."""
    return weak_first(powerful, weak, steps - weak_steps, steps)


def powerful_last(weak: Patch, powerful: Patch, x: int, y: int, steps: int) -> tuple[Schedule, Schedule]:
    """The paper's `x/y`: the last x conditional and the last y guiding steps are powerful."""
    if not (0 <= x <= steps and 0 <= y <= steps):
        raise UserError(f"{x}/{y} powerful steps do not fit into steps={steps}")
    return weak_first(weak, powerful, steps - x, steps), weak_first(weak, powerful, steps - y, steps)


def within_budget(
    budget: float,
    steps: int,
    weak: Patch,
    powerful: Patch,
    cost: Callable[[Patch], float],
    evaluations: Sequence[int] | None = None,
) -> Schedule:
    """The weak-first schedule whose cost is nearest to `budget`, at or below it.

    Args:
      budget: share of the cost of running every step powerful, in (0, 1].
      steps: number of steps.
      weak, powerful: the two modes.
      cost: FLOPs of one call in a mode.
      evaluations: calls of every step; one each by default.

    Raises:
      UserError: a budget outside (0, 1], or below what running every step weak costs.
    """
    floor = cost(weak) / cost(powerful)
    if not 0 < budget <= 1:
        raise UserError(f"budget must lie in (0, 1] (1 runs every step powerful), got {budget!r}")
    if budget < floor:
        raise UserError(
            f"budget {budget:g} is below what patch {short_patch_name(weak)} alone costs;"
            f" the least this model can do is {np.ceil(floor * 1e4) / 1e4:g}"
        )
    if weak == powerful:
        return constant(powerful, steps)
    calls = np.ones(steps) if evaluations is None else np.asarray(evaluations)
    saved = (1 - floor) * np.cumsum(calls) / calls.sum()  # by the first 1, 2, ... steps being weak
    weak_steps = int(np.searchsorted(np.append(0.0, saved), 1 - budget - 1e-12))
    return weak_first(weak, powerful, min(weak_steps, steps), steps)


def total_cost(
    schedule: Schedule,
    guide: Schedule | None,
    cost: Callable[[Patch], float],
    evaluations: Sequence[int] | None = None,
) -> float:
    """Cost of all calls, the guide's included; `evaluations` are the calls of every step, one each by default."""
    total = 0.0
    for runs in (schedule, guide or ()):
        start = 0
        for patch, n in runs:
            total += cost(patch) * (n if evaluations is None else sum(evaluations[start : start + n]))
            start += n
    return total


def relative_cost(
    schedule: Schedule,
    guide: Schedule | None,
    powerful: Patch,
    cost: Callable[[Patch], float],
    evaluations: Sequence[int] | None = None,
) -> float:
    """Cost over that of the same calls all run powerful."""
    ours, full = (total_cost(schedule, guide, price, evaluations) for price in (cost, lambda patch: cost(powerful)))
    return ours / full


def segments(schedule: Schedule, guide: Schedule | None, guidance: float) -> list[Segment]:
    """Joins the two schedules into stretches of steps that run one program.

    Args:
      schedule: of the conditional prediction.
      guide: of the guiding prediction; None when nothing guides.
      guidance: s1, the scale where both run at one patch size (see `sampling.guidance`).

    Raises:
      UserError: a guide more powerful than the conditional prediction it guides; the paper
        defines guidance by an equal or weaker model only.
    """
    joined: list[Segment] = []
    cond_runs, guide_runs = list(schedule), list(guide or [])
    step = 0
    while cond_runs:
        cond_patch, count = cond_runs[0]
        guide_patch = guide_runs[0][0] if guide_runs else None
        if guide_runs:
            count = min(count, guide_runs[0][1])
            if np.prod(guide_runs[0][0]) < np.prod(cond_patch):
                raise UserError(
                    f"at step {step} the guide (patch {short_patch_name(guide_runs[0][0])}) is more powerful than"
                    f" the conditional prediction (patch {short_patch_name(cond_patch)}); make it equal or weaker"
                )
        scale = segment_scale(guidance, cond_patch, guide_patch)
        joined.append(Segment(step, step + count, cond_patch, guide_patch, scale))
        step += count
        for runs in (cond_runs, guide_runs):
            if runs:
                runs[0] = (runs[0][0], runs[0][1] - count)
                if not runs[0][1]:
                    runs.pop(0)
    return joined


def plan(
    patches: Sequence[Patch],
    cost: Callable[[Patch], float],
    steps: int,
    schedule: str | None = None,
    budget: float | None = None,
    guide: str | None = None,
    guidance: float = 1.0,
    weak: Patch | None = None,
    evaluations: Sequence[int] | None = None,
    choose: Callable[[list[Plan]], Plan] | None = None,
) -> Plan:
    """What a user asked for, as two schedules.

    Args:
      patches: the model's modes, powerful first.
      cost: FLOPs of one call in a mode.
      steps: number of steps.
      schedule: `"4:120,2:130"`, or the paper's `"90/50"`: the last 90 conditional and the last 50
        guiding steps are powerful. Without it and without a budget every step is powerful.
      budget: share of the FLOPs of running every step powerful; mixes the most powerful mode with
        `weak`, by default the weakest.
      guide: schedule of the guide; None means the same as the conditional one.
      guidance: 1 runs no guide at all.
      weak: the mode that a budget or `"x/y"` mixes in.
      evaluations: calls of every step, which a budget counts; one each by default.
      choose: instead of a schedule or a budget, picks one of the weak-first plans with 0, 1, ... weak steps.

    Raises:
      UserError: more than one of schedule, budget and choose, or what the parts refuse.
    """
    if steps < 1:
        raise UserError(f"steps must be at least 1, got {steps}")
    if schedule is not None and budget is not None:
        raise UserError(f"give a schedule or a budget, not both (schedule={schedule!r}, budget={budget!r})")
    if choose is not None and (schedule is not None or budget is not None):
        raise UserError(f"latency_ms goes without a schedule or a budget (schedule={schedule!r}, budget={budget!r})")
    if weak is not None and weak not in patches:
        known = ", ".join(map(short_patch_name, patches))
        raise UserError(f"weak={short_patch_name(weak)} is not a mode of this model; it has {known}")
    schedule, guide = (None if text is None else str(text) for text in (schedule, guide))
    weakest = weak or min(patches, key=cost)
    counts = re.fullmatch(r"([0-9]+)/([0-9]+)", schedule or "")
    if counts:
        if guide is not None:
            raise UserError(f"schedule {schedule!r} speaks for the guide too; leave out guide={guide!r}")
        conditional, guiding = powerful_last(weakest, patches[0], int(counts[1]), int(counts[2]), steps)
        return conditional, None if guidance == 1 else guiding

    def whole(conditional: Schedule) -> Plan:
        if guidance == 1:
            return conditional, None
        return conditional, conditional if guide is None else parse(guide, steps, patches)

    if schedule is not None:
        return whole(parse(schedule, steps, patches))
    if budget is not None:
        return whole(within_budget(budget, steps, weakest, patches[0], cost, evaluations))
    if choose is not None:
        return choose([whole(weak_first(weakest, patches[0], n, steps)) for n in range(steps + 1)])
    return whole(constant(patches[0], steps))
