"""What a spec asks for and no step of its plan reads.

A key is read where another value of it would make another plan, or, of those that say how two predictions become one,
where there are two.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flexidit_jax.common.arguments import shown
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Patch, as_patch, short_patch_name
from flexidit_jax.diffusion.steps import Steps
from flexidit_jax.sampling.plan import Cost, Plan
from flexidit_jax.sampling.schedule import X_OVER_Y, constant, parse_numbers, text_of
from flexidit_jax.sampling.spec import SampleSpec

#: keys that ask for something to run; the others say how it runs where it does
ASKS = ("schedule", "guide", "weak_guidance", "guidance_interval", "weak", "negative")


def unread(
    spec: SampleSpec, patches: Sequence[Patch], table: Steps, cost: Cost, negative: Any = None
) -> dict[str, str]:
    """The keys that a spec sets and no step reads, with why; of a schedule `"x/y"` it is the y.

    Of a budget, in FLOPs or milliseconds, both ends count, every step powerful and every step weak: what it comes to
    is not the user's choice.

    Args:
      patches, table, cost: see `SampleSpec.plan`.
      negative: what guidance leads away from, which is no key of a spec.

    Returns:
      Such as `{"guide": "guidance=1 runs no guide"}`; {} of a spec that the model refuses.
    """

    def plans(**words: Any) -> list[Plan]:
        found = []
        for end in ends:
            try:
                found.append(replace(end, **words).plan(patches, table, cost))
            except UserError:  # where no end will do, it is said elsewhere
                continue
        return found

    chosen = spec.budget is not None or spec.latency_ms is not None
    fixed = replace(spec, budget=None, latency_ms=None)
    ends = [fixed]
    if chosen:
        weak = min(patches, key=cost) if spec.weak is None else as_patch(spec.weak)
        ends.append(replace(fixed, schedule=text_of(constant(weak, spec.steps))))
    if not (made := plans()):
        return {}
    guided = any(plan.guide for plan in made)
    two_lengths = any(run.two_lengths for plan in made for run in plan.segments)
    moved = plans(guidance_interval=None)
    ones = bool(np.all(parse_numbers(spec.guidance, spec.steps, "guidance") == 1))
    if ones:
        nothing = f"guidance={spec.guidance} runs no guide"
    elif any(plan.guide for plan in moved):
        nothing = f"no step lies in guidance_interval={spec.guidance_interval}"
    else:
        nothing = "no step has a guide and a scale other than 1"
    shares = X_OVER_Y.fullmatch(spec.schedule or "")
    found: dict[str, str] = {}
    if not guided:
        words = {
            "schedule": shares and int(shares[1]) != int(shares[2]),
            "guide": any(entry.strip()[:4] != "none" for entry in (spec.guide or "none").split(",")),
            "guidance_interval": spec.guidance_interval is not None and moved == made,
            "guidance_channels": spec.guidance_channels is not None,
            "negative": negative is not None,
        }
        found |= {key: nothing for key, said in words.items() if said}
    if (guided or not ones) and plans(guidance=2.0) == plans(guidance=3.0):
        found["guidance"] = f"only a weaker mode guides, at weak_guidance={spec.weak_guidance}" if guided else nothing
    lonely = "no step is guided by a weaker mode"
    if spec.weak_guidance is not None and plans(weak_guidance=2.0) == plans(weak_guidance=3.0):
        found["weak_guidance"] = lonely
    if spec.packing != "separate" and not two_lengths:
        found["packing"] = lonely
    if spec.weak is not None and not chosen and not shares:
        names = f"schedule={spec.schedule!r} names its modes"
        found["weak"] = f"every step runs patch {short_patch_name(patches[0])}" if spec.schedule is None else names
    return found


def check_read(told: Sequence[Mapping[str, str]], typed: Mapping[str, Any], where: str = "") -> None:
    """Refuses what is typed and asks for something that runs nowhere.

    Args:
      told: what no step reads, of every spec (see `unread`).
      typed: keys with their values.
      where: before a key, such as `sample.`.

    Raises:
      UserError: with the reason.
    """
    for key in ASKS:
        if key in typed and told and all(key in one for one in told):
            said, leave = f"{where}{key}={shown(typed[key])}", f"leave {where}{key} out"
            if key == "schedule":
                x, _, y = typed[key].partition("/")
                said, leave = f"the {y} of {said}", f"write {where}{key}='{x}/{x}'"
            raise UserError(f"{said} is read by no step: {told[0][key]}; change that, or {leave}")
