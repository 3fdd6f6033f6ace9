"""Words that leave nothing to choose, so that what is printed is what runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexidit_jax.sampling.plan import Plan
from flexidit_jax.sampling.schedule import text_of

#: what `FlexiDiT.plan` chooses a schedule by
CHOOSING = {"schedule", "guide", "budget", "latency_ms"}


def settled(words: Mapping[str, Any], plan: Plan) -> dict[str, Any]:
    """The words of `FlexiDiT.sample` that run `plan`, which was made from `words`.

    Scales and their interval stay words: they follow from which mode guides which, and that is the plan's. A
    budget in milliseconds is timed once this way, and not again by every call.
    """
    guide = plan.guide or ((None, len(plan.evaluations)),)
    kept = {key: value for key, value in words.items() if key not in CHOOSING}
    return kept | {"schedule": text_of(plan.schedule), "guide": text_of(guide)}
