"""What a user asks for as a plan: budgets, guides, intervals, the paper's x/y."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Patch
from flexidit_jax.sampling.plan import Plan
from flexidit_jax.sampling.schedule import Segment, constant, powerful_last, weak_first
from flexidit_jax.sampling.spec import SampleSpec

P2, P4, P8 = (1, 2, 2), (1, 4, 4), (1, 8, 8)
#: GMAC of DiT-XL/2 at 256x256 (method, section 8); 8 is made up
COST = {P2: 118.6, P4: 29.0, P8: 7.4}


def cost(patch: Patch) -> float:
    return COST[patch]


def planned(steps: int, patches: tuple[Patch, ...] = (P2, P4), **words: object) -> Plan:
    calls = words.pop("evaluations", (1,) * steps)
    table = SimpleNamespace(times=np.linspace(999, 0, steps) if steps else (), evaluations=calls)
    return SampleSpec(**{"guidance": 1.0, **words}).plan(patches, table, cost)


def share(plan: Plan) -> float:
    return plan.relative_cost(P2, cost)


@pytest.mark.parametrize(
    ("x", "y", "percent"), [(250, 250, 100), (130, 130, 64), (70, 70, 46), (90, 50, 46), (30, 0, 29)]
)
def test_published_percentages_of_x_over_y(x: int, y: int, percent: float) -> None:
    assert 100 * share(planned(250, schedule=f"{x}/{y}", guidance=1.5)) == pytest.approx(percent, abs=0.5)


# ---------------------------------------------------------------- Budgets


@pytest.mark.parametrize("words", [{}, {"guidance": 1.5}, {"guidance": 1.5, "guide": "4:7"}], ids=str)
@pytest.mark.parametrize("weak", [P4, P8])
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
def test_a_budget_buys_the_dearest_schedule_it_can_pay(weak: Patch, steps: int, words: dict) -> None:
    if words.get("guide") and (steps != 7 or weak != P4):
        return
    every = []
    for n in range(steps + 1):
        schedule = f"{weak[1]}:{n},2:{steps - n}"
        every.append(share(planned(steps, (P2, P4, P8), schedule=schedule, **words)))
    every = np.array(every)
    for budget in np.linspace(every.min(), every.max(), 53):
        bought = share(planned(steps, (P2, P4, P8), budget=float(budget), weak=weak, **words))
        assert bought <= budget + 1e-9
        assert bought == pytest.approx(every[every <= budget + 1e-9].max(), abs=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 50, 250])
def test_a_schedules_own_cost_buys_it_back(steps: int) -> None:
    for n in range(0, steps + 1, max(1, steps // 25)):
        asked = planned(steps, schedule=f"4:{n},2:{steps - n}", guidance=1.5)
        assert planned(steps, budget=share(asked), guidance=1.5) == asked


def test_the_published_budget() -> None:
    assert planned(250, budget=0.64).schedule == ((P4, 120), (P2, 130))


def test_ends_of_the_budget() -> None:
    floor = COST[P4] / COST[P2]
    assert planned(250, budget=1).schedule == constant(P2, 250)
    assert planned(250, budget=floor).schedule == constant(P4, 250)
    assert planned(250, (P2,), budget=1).schedule == constant(P2, 250)


def test_below_the_floor_is_refused_and_the_floor_named_is_accepted() -> None:
    with pytest.raises(UserError, match=r"^budget 0\.24 is below what patch 4 alone costs") as caught:
        planned(250, budget=0.24)
    least = float(re.search(r"can do is ([\d.]+)$", str(caught.value))[1])
    assert planned(250, budget=least).schedule == constant(P4, 250)
    with pytest.raises(UserError, match="below"):
        planned(250, budget=least - 2e-4)


@pytest.mark.parametrize("budget", [0, -0.5, 1.01, 64, float("nan"), float("inf")])
def test_a_budget_is_a_share(budget: float) -> None:
    with pytest.raises(UserError, match=r"^budget must lie in \(0, 1\]"):
        planned(250, budget=budget)


def test_a_budget_with_a_guide_that_forbids_weak_steps() -> None:
    """The guide is powerful from step 2 on: two weak steps are affordable at this budget, more forbidden."""
    words = {"guide": "4:2,2:8", "guidance": 1.5}
    assert planned(10, budget=0.9, **words).schedule == ((P4, 1), (P2, 9))
    with pytest.raises(UserError, match=r"^at step 2 the guide \(patch 2\) is more powerful"):
        planned(10, budget=0.5, **words)


def test_evaluations_count() -> None:
    """Steps of 2, 2, 2 and 1 calls: one weak step saves two of seven."""
    floor = COST[P4] / COST[P2]
    chosen = planned(4, schedule="4:1,2:3", evaluations=[2, 2, 2, 1])
    assert share(chosen) == pytest.approx((5 + 2 * floor) / 7)
    assert planned(4, budget=share(chosen), evaluations=[2, 2, 2, 1]) == chosen
    assert planned(4, budget=share(chosen)).schedule == ((P4, 2), (P2, 2))
    assert chosen.total_cost(cost) == pytest.approx(5 * COST[P2] + 2 * COST[P4])


# ---------------------------------------------------------------- Guides


def test_a_plan_is_powerful_by_default() -> None:
    assert planned(10) == Plan((Segment(0, 10, P2, None, 1.0),), (1,) * 10)
    assert str(planned(10)) == "2:10; guide: none"


def test_guidance_one_runs_no_guide() -> None:
    assert planned(10, schedule="4:4,2:6", guide="4:4,2:6", guidance=1).guide is None
    assert planned(10, budget=0.5, guidance=1.0).guide is None


def test_the_guide_follows_the_schedule_unless_named() -> None:
    chosen = planned(10, schedule="4:4,2:6", guidance=1.5)
    assert chosen.guide == chosen.schedule == ((P4, 4), (P2, 6))
    chosen = planned(10, schedule="4:4,2:6", guide="4:8,2:2", guidance=1.5)
    assert chosen.guide == ((P4, 8), (P2, 2))
    assert str(chosen) == "4:4,2:6; guide: 4:8,2:2"


def test_scales_are_tied_unless_given() -> None:
    words = {"schedule": "4:4,2:6", "guide": "4:8,2:2", "guidance": 1.5}
    assert [run.scale for run in planned(10, **words).segments] == pytest.approx([1.5, 1.2, 1.5])
    assert [run.scale for run in planned(10, weak_guidance=1.4, **words).segments] == pytest.approx([1.5, 1.4, 1.5])
    assert planned(10, weak_guidance=1, **words).guide == ((P4, 4), (None, 4), (P2, 2))


def test_a_scale_for_every_stretch() -> None:
    chosen = planned(10, schedule="4:4,2:6", guidance="1:3,2:3,1.5:4")
    assert [(run.start, run.stop, run.guide_patch, run.scale) for run in chosen.segments] == [
        (0, 3, None, 1.0),
        (3, 4, P4, 2.0),
        (4, 6, P2, 2.0),
        (6, 10, P2, 1.5),
    ]
    weak = planned(10, guide="4:10", guidance=1.5, weak_guidance="1.1:5,1.3:5")
    assert [run.scale for run in weak.segments] == [1.1, 1.3]


def test_an_interval_guides_between_two_times() -> None:
    """Ten steps at 999, 888, ..., 0; the calls that are not made do not count."""
    chosen = planned(10, guidance=2.0, guidance_interval=(200, 700))
    assert chosen.guide == ((None, 3), (P2, 5), (None, 2))
    assert chosen.total_cost(cost) == pytest.approx(15 * COST[P2])
    assert share(chosen) == 1
    assert chosen == planned(10, guidance=2.0, guide="none:3,2:5,none:2")
    assert chosen == planned(10, guidance="1:3,2:5,1:2")
    ends = planned(10, guidance=2.0, guidance_interval=(333, 666))  # both are among the times, and both are guided
    assert ends.guide == ((None, 3), (P2, 4), (None, 3))
    for bad in ((700, 200), (1,), "ab", 3, (None, 2)):
        with pytest.raises(UserError, match=r"^guidance_interval must be \(lowest, highest\)"):
            planned(10, guidance=2.0, guidance_interval=bad)


# ---------------------------------------------------------------- Modes


def test_with_three_modes_a_budget_mixes_in_the_weakest_or_the_one_named() -> None:
    modes = (P2, P4, P8)
    assert {patch for patch, _ in planned(50, modes, budget=0.5).schedule} == {P8, P2}
    assert {patch for patch, _ in planned(50, modes, budget=0.5, weak=P4).schedule} == {P4, P2}
    with pytest.raises(UserError, match="below what patch 4 alone costs"):
        planned(50, modes, budget=0.1, weak=P4)
    assert planned(50, modes, budget=0.1).schedule[0][0] == P8
    assert planned(50, modes, schedule="8:10,4:20,2:20").schedule == ((P8, 10), (P4, 20), (P2, 20))


def test_the_papers_x_over_y_speaks_for_both_predictions() -> None:
    chosen = planned(250, schedule="90/50", guidance=1.5)
    assert (chosen.schedule, chosen.guide) == powerful_last(P4, P2, 90, 50, 250)
    assert planned(250, schedule="90/50", guidance=1).schedule == weak_first(P4, P2, 160, 250)
    assert planned(10, (P2, P4, P8), schedule="4/2", guidance=2.0).schedule == ((P8, 6), (P2, 4))
    assert planned(10, (P2, P4, P8), schedule="4/2", guidance=2.0, weak=P4).schedule == ((P4, 6), (P2, 4))
    with pytest.raises(UserError, match=r"^251/0 powerful steps do not fit into steps=250$"):
        planned(250, schedule="251/0")
    with pytest.raises(UserError, match=r"leave out guide='4:250'$"):
        planned(250, schedule="90/50", guide="4:250", guidance=1.5)


def test_plan_refusals() -> None:
    with pytest.raises(UserError, match=r"^give a schedule or a budget, not both \(schedule='4:10', budget=0\.5\)$"):
        planned(10, schedule="4:10", budget=0.5)
    with pytest.raises(UserError, match=r"^weak=8 is not a mode of this model; it has 2, 4$"):
        planned(10, budget=0.5, weak=P8)
    with pytest.raises(UserError, match="adds up to 9 steps, but steps=10"):
        planned(10, guide="4:9", guidance=2.0)


def test_the_pairs_of_a_plan_in_the_order_they_run() -> None:
    ran = (Segment(0, 1, P4, None, 1.0), *(Segment(k, k + 1, P2, P4, 1.5 + k) for k in (1, 2)))
    assert Plan(ran, (1, 1, 1)).pairs == ((P4, None), (P2, P4))
