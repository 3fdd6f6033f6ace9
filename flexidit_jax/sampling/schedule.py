"""Which patch size predicts at which step: schedules as data (FlexiDiT section 3.3).

A *schedule* is `[(patch, steps), ...]` in the order executed, noise first; `"4:120,2:130"` is 120
weak steps, then 130 powerful ones. The conditional and the guiding prediction may follow different
schedules; `segments` joins the two into stretches of steps that run one program.

Numbers that change over the steps are spelled alike: `"1:50,1.5:200"` is 1 for 50 steps, then 1.5.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

from flexidit_jax.common.arguments import holds
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Patch, as_patch, short_patch_name

T = TypeVar("T")
Schedule: TypeAlias = tuple[tuple[Patch, int], ...]
#: of the guide; None for steps that nothing guides
GuideSchedule: TypeAlias = tuple[tuple[Patch | None, int], ...]
#: the conditional and the guiding patch of a step, None where nothing guides
Pair: TypeAlias = tuple[Patch, Patch | None]
#: the paper's spelling of two schedules, see `powerful_last`
X_OVER_Y = re.compile("([0-9]+)/([0-9]+)")


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
    def pair(self) -> Pair:
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
    schedule = _runs(text, steps, "schedule", "patch:steps,patch:steps (such as 4:120,2:130)", as_patch)
    for patch, _ in schedule:
        if patch not in patches:
            known = ", ".join(map(short_patch_name, patches))
            raise UserError(f"schedule {text!r} uses patch {short_patch_name(patch)}; the model has {known}")
    return schedule


def parse_guide(text: str, steps: int, patches: Sequence[Patch]) -> GuideSchedule:
    """Reads the schedule of a guide, in which `none` stands for steps that nothing guides: `"none:50,4:200"`.

    Raises:
      UserError: see `parse`.
    """
    runs = _runs(
        text, steps, "schedule", "patch:steps,patch:steps (such as 4:120,2:130)",
        lambda word: None if word == "none" else as_patch(word),
    )  # fmt: skip
    patched = ",".join(f"{short_patch_name(patch)}:{count}" for patch, count in runs if patch is not None)
    if patched:
        parse(patched, sum(count for patch, count in runs if patch is not None), patches)
    return runs


def parse_numbers(value: float | str, steps: int, where: str) -> np.ndarray:
    """A number for every step, [steps], from one number or from `"1:50,1.5:200"`.

    Raises:
      UserError: not of that form, or steps that do not add up to `steps`.
    """
    if isinstance(value, (int, float)):
        return np.full(steps, float(value))
    runs = _runs(value, steps, where, "a number, or number:steps,number:steps (such as 1:50,1.5:200)", float)
    if not holds([number for number, _ in runs]):
        raise UserError(f"{where} {value!r} holds a number that is not finite")
    return np.repeat([number for number, _ in runs], [count for _, count in runs])


def text_of(schedule: GuideSchedule) -> str:
    """The inverse of `parse` and `parse_guide`."""
    return ",".join(f"{_mode_text(patch)}:{count}" for patch, count in schedule)


def pair_text(cond: Patch, guide: Patch | None) -> str:
    """`"2+4"` is patch 2 guided by 4, `"2+none"` patch 2 that nothing guides."""
    return f"{short_patch_name(cond)}+{_mode_text(guide)}"


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


def segments(
    schedule: Schedule, guide: GuideSchedule | None, guidance: Sequence[float], weak_guidance: Sequence[float]
) -> tuple[Segment, ...]:
    """Joins the two schedules into stretches of steps that run one program.

    Args:
      schedule: of the conditional prediction.
      guide: of the guiding prediction; None when nothing guides.
      guidance: the scale of every step where both run at one patch size (s1 of `sampling.guidance`).
      weak_guidance: the scale of every step where a weaker mode guides (s2). Where a scale is 1, nothing guides.

    Raises:
      UserError: a guide more powerful than the conditional prediction it guides; the paper
        defines guidance by an equal or weaker model only.
    """
    joined: list[Segment] = []
    conds = [patch for patch, count in schedule for _ in range(count)]
    guides = [patch for patch, count in guide for _ in range(count)] if guide else [None] * len(conds)
    for k, (cond, by) in enumerate(zip(conds, guides, strict=True)):
        scale = float(guidance[k] if by == cond else weak_guidance[k])
        if by is None or scale == 1:
            by, scale = None, 1.0
        elif np.prod(by) < np.prod(cond):
            raise UserError(
                f"at step {k} the guide (patch {short_patch_name(by)}) is more powerful than"
                f" the conditional prediction (patch {short_patch_name(cond)}); make it equal or weaker"
            )
        if joined and joined[-1][2:5] == (cond, by, scale):
            joined[-1] = joined[-1]._replace(stop=k + 1)
        else:
            joined.append(Segment(k, k + 1, cond, by, scale))
    return tuple(joined)


def _runs(text: str, steps: int, what: str, form: str, read: Callable[[str], T]) -> tuple[tuple[T, int], ...]:
    """`"a:3,b:4"` as ((read("a"), 3), (read("b"), 4)); the counts add up to `steps`."""
    runs = []
    for entry in text.split(","):
        word, colon, count = entry.strip().partition(":")
        if not colon or not re.fullmatch("[0-9]+", count):
            raise UserError(f"{what} {text!r} is not of the form {form}")
        try:
            runs.append((read(word), int(count)))
        except ValueError:
            raise UserError(f"{what} {text!r} is not of the form {form}") from None
    total = sum(count for _, count in runs)
    if total != steps:
        raise UserError(f"{what} {text!r} adds up to {total} steps, but steps={steps}")
    return tuple((item, count) for item, count in runs if count)


def _mode_text(patch: Patch | None) -> str:
    return "none" if patch is None else short_patch_name(patch)
