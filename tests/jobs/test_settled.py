"""Words that leave nothing to choose run the plan they were made of."""

from __future__ import annotations

from typing import Any

import pytest

import flexidit_jax as fd
from flexidit_jax.jobs.parts.settled import settled


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"guidance": 1.0},
        {"budget": 0.6},
        {"schedule": "3/1", "guidance": "1:1,4:4", "weak": 4},
        {"schedule": "4:2,2:3", "guide": "none:1,4:4", "weak_guidance": 1.3},
        {"budget": 0.7, "guidance": 3.0, "guidance_interval": (100, 700)},
        {"schedule": "4:5", "guidance_interval": (2000, 3000)},
    ],
)
def test_the_plan_is_the_same(flex: fd.FlexiDiT, words: dict[str, Any]) -> None:
    plan = flex.plan(steps=5, **words)
    fixed = settled({"steps": 5, **words}, plan)
    assert not {"budget", "latency_ms"} & set(fixed)
    assert flex.plan(**fixed) == plan
