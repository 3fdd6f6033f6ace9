"""What a spec asks for and no step reads: named, and refused where it is typed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

import flexidit_jax as fd

UNGUIDED = "guidance=1.0 runs no guide"
LONELY = "no step is guided by a weaker mode"


def told(flex: fd.FlexiDiT, negative: Any = None, **words: Any) -> dict[str, str]:
    return flex.sampler.unread(fd.SampleSpec(steps=5, **words), negative)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"guide": "4:5"}, {"guide": UNGUIDED}),
        ({"guide": "none:5"}, {}),
        ({"guidance_channels": 3}, {"guidance_channels": UNGUIDED}),
        ({"negative": 3}, {"negative": UNGUIDED}),
        ({"guidance_interval": (0, 1000)}, {"guidance_interval": UNGUIDED}),
        ({"schedule": "3/1"}, {"schedule": UNGUIDED}),
        ({"schedule": "3/3"}, {}),
        ({"weak_guidance": 1.3}, {"weak_guidance": LONELY}),
        ({"weak_guidance": 1.3, "guide": "4:5"}, {"guidance": "only a weaker mode guides, at weak_guidance=1.3"}),
        ({"packing": "packed"}, {"packing": LONELY}),
        ({"packing": "packed", "budget": 0.6, "guide": "4:5"}, {"guide": UNGUIDED, "packing": LONELY}),
        ({"guidance": "1:2,1:3", "guide": "4:5"}, {"guide": "guidance=1:2,1:3 runs no guide"}),
    ],
)
def test_guidance_of_one_leaves_what_is_said_of_a_guide_unread(
    flex: fd.FlexiDiT, words: dict[str, Any], says: dict[str, str]
) -> None:
    assert told(flex, **{"guidance": 1.0, **words}) == says


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({}, {}),
        ({"guide": "4:5", "packing": "packed", "guidance_channels": 3, "negative": 3, "weak_guidance": 1}, None),
        (
            {"guide": "4:5", "weak_guidance": "1:2,1.3:3"},
            {"guidance": "only a weaker mode guides, at weak_guidance=1:"},
        ),
        ({"guide": "4:2,2:3", "weak_guidance": 1.3}, {}),
        ({"guide": "2:5"}, {}),  # as it would be without
        ({"guide": "none:4,2:1"}, {}),
        ({"schedule": "3/1"}, {}),
        ({"schedule": "4:3,2:2", "weak": 4}, {"weak": "schedule='4:3,2:2' names its modes"}),
        ({"weak": 4}, {"weak": "every step runs patch 2"}),
        ({"weak": 4, "budget": 0.6}, {}),
        ({"weak": 4, "latency_ms": 5.0}, {}),
        ({"weak": 4, "schedule": "3/1"}, {}),
        ({"budget": 0.6, "guide": "4:5", "weak_guidance": 1.3, "packing": "packed"}, {}),  # of a step it may come to
        ({"budget": 0.27, "guide": "4:5", "packing": "packed"}, {}),
        ({"budget": 0.6, "packing": "packed"}, {"packing": LONELY}),
        ({"weak_guidance": 1.3}, {"weak_guidance": LONELY}),
        ({"guide": "none:5"}, {"guidance": "no step has a guide and a scale other than 1"}),
        (
            {"guidance_interval": (1, 2), "guide": "4:5"},
            dict.fromkeys(("guide", "guidance"), "no step lies in guidance_interval=(1, 2)"),
        ),
        ({"guidance_interval": (0, 1000)}, {}),
        ({"schedule": "8:5"}, {}),  # which this model refuses
        ({"solver": "euler", "guide": "none:5"}, {}),
    ],
)
def test_what_a_plan_reads(flex: fd.FlexiDiT, words: dict[str, Any], says: dict[str, str] | None) -> None:
    found = told(flex, **{"guidance": 2.0, **words})
    if says is None:  # weak_guidance=1 is read, and ends all guidance
        assert set(found) == {"guide", "packing", "guidance_channels", "negative", "guidance"}
        return
    assert found.keys() == says.keys()
    assert all(found[key].startswith(says[key]) for key in says)


# ---------------------------------------------------------------- Typed


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"guide": "4:4"}, f"guide='4:4' is read by no step: {UNGUIDED}; change that, or leave guide out"),
        ({"negative": 3}, f"negative=3 is read by no step: {UNGUIDED}; change that, or leave negative out"),
        ({"guidance_interval": (0, 500)}, f"guidance_interval=(0, 500) is read by no step: {UNGUIDED}; change that"),
        ({"weak_guidance": 1.3}, f"weak_guidance=1.3 is read by no step: {LONELY}; change that"),
        (
            {"schedule": "3/1"},
            f"the 1 of schedule='3/1' is read by no step: {UNGUIDED}; change that, or write schedule='3/3'",
        ),
        ({"weak": 4}, "weak=4 is read by no step: every step runs patch 2; change that, or leave weak out"),
    ],
)
def test_what_is_typed_and_idle_is_refused(flex: fd.FlexiDiT, words: dict[str, Any], says: str) -> None:
    several = [{"guidance": 1.0, **words}, {"spec": fd.SampleSpec(guidance=1.0, steps=4), **words}]
    for typed in several[: 1 if "negative" in words else 2]:
        for method in (flex.sample, flex.steps):
            with pytest.raises(fd.UserError, match=f"^{re.escape(says)}"):
                method([0], **{"steps": 4, **typed})
    flex.plan(**{"steps": 4, "guidance": 1.0, **{key: word for key, word in words.items() if key != "negative"}})


def test_what_a_spec_said_before_and_how_a_guide_would_run_are_not(flex: fd.FlexiDiT) -> None:
    quiet = {"decode": False, "progress": False}
    spec = fd.SampleSpec(steps=2, guide="4:2", guidance_channels=3, packing="packed")
    plain = flex.sample([0], steps=2, guidance=1.0, **quiet)
    np.testing.assert_array_equal(flex.sample([0], spec=spec, guidance=1.0, **quiet), plain)
    unguided = fd.SampleSpec(steps=2, guidance=1.0)
    np.testing.assert_array_equal(flex.sample([0], spec=unguided, negative=3, **quiet), plain)  # as a study passes it
    typed = {"guidance_channels": 3, "packing": "packed"}
    np.testing.assert_array_equal(flex.sample([0], steps=2, guidance=1.0, **typed, **quiet), plain)


def test_of_several_specs_one_that_reads_it_is_enough(flex: fd.FlexiDiT) -> None:
    specs = [fd.SampleSpec(steps=2, guidance=scale) for scale in (1.0, 2.0)]
    flex.steps([0, 1], spec=specs, guide="4:2")
    with pytest.raises(fd.UserError, match=r"^guide='4:2' is read by no step"):
        flex.steps([0, 1], spec=[specs[0]] * 2, guide="4:2")


def test_x_over_y_puts_the_guide_of_a_spec_aside(flex: fd.FlexiDiT) -> None:
    spec = fd.SampleSpec(steps=4, guide="4:4", guidance=2.0)
    assert str(flex.plan(spec=spec, schedule="3/1")) == "4:1,2:3; guide: 4:3,2:1"
    with pytest.raises(fd.UserError, match=r"^schedule '3/1' speaks for the guide too; leave out guide='4:4'$"):
        flex.plan(spec=spec, schedule="3/1", guide="4:4")
