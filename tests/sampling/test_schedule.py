"""Schedules as data: what they spell, what a budget buys, and how two of them join."""

from __future__ import annotations

import re

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Patch
from flexidit_jax.sampling.guidance import weak_guide_scale
from flexidit_jax.sampling.schedule import (
    Schedule,
    Segment,
    constant,
    parse,
    plan,
    powerful_last,
    relative_cost,
    segments,
    text_of,
    weak_first,
    weak_last,
    within_budget,
)

P2, P4, P8 = (1, 2, 2), (1, 4, 4), (1, 8, 8)
VIDEO = (2, 4, 4)
#: GMAC of DiT-XL/2 at 256x256 (method, section 8); 8 is made up
COST = {P2: 118.6, P4: 29.0, P8: 7.4}


def cost(patch: Patch) -> float:
    return COST[patch]


def share(schedule: Schedule) -> float:
    return relative_cost(schedule, None, P2, cost)


# ---------------------------------------------------------------- Strings


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("4:120,2:130", ((P4, 120), (P2, 130))),
        ("2:250", ((P2, 250),)),
        ("2:130,4:120", ((P2, 130), (P4, 120))),
        ("2x4x4:1,1x2x2:249", ((VIDEO, 1), (P2, 249))),
        ("8:10,4:40,2:200", ((P8, 10), (P4, 40), (P2, 200))),
    ],
)
def test_parse(text: str, schedule: Schedule) -> None:
    assert parse(text, 250, [P2, P4, P8, VIDEO]) == schedule
    assert parse(text_of(schedule), 250, [P2, P4, P8, VIDEO]) == schedule


def test_parse_forgives_spaces() -> None:
    assert parse("4:1, 2:3", 4, [P2, P4]) == ((P4, 1), (P2, 3))


def test_entries_of_zero_steps_vanish() -> None:
    assert parse("4:0,2:4", 4, [P2, P4]) == ((P2, 4),)
    assert parse("4:2,2:0,4:2", 4, [P2, P4]) == ((P4, 2), (P4, 2))
    assert weak_first(P4, P2, 0, 4) == ((P2, 4),)
    assert weak_first(P4, P2, 4, 4) == ((P4, 4),)


def test_steps_must_add_up() -> None:
    with pytest.raises(UserError, match=r"^schedule '4:120,2:120' adds up to 240 steps, but steps=250$"):
        parse("4:120,2:120", 250, [P2, P4])


def test_unknown_patch_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"^schedule '3:1,2:3' uses patch 3; the model has 2, 4$"):
        parse("3:1,2:3", 4, [P2, P4])


@pytest.mark.parametrize("text", ["", "4", "4:", "4:-1,2:5", "4:²,2:2", "4:2;2:2", "4:2,,2:2", "4:1.5,2:2.5", "4:two"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"is not of the form"):
        parse(text, 4, [P2, P4])


@pytest.mark.parametrize("text", [":4", "4x:4", "0:4", "four:4"])
def test_what_is_no_patch_is_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"^patch '.*' is not "):
        parse(text, 4, [P2, P4])


# ---------------------------------------------------------------- Orders


def test_orders() -> None:
    assert weak_first(P4, P2, 120, 250) == ((P4, 120), (P2, 130))
    assert weak_last(P4, P2, 120, 250) == ((P2, 130), (P4, 120))
    assert weak_last(P4, P2, 0, 250) == weak_first(P4, P2, 0, 250) == constant(P2, 250)
    assert weak_last(P4, P2, 250, 250) == constant(P4, 250)


def test_powerful_last_counts_from_the_end() -> None:
    conditional, guiding = powerful_last(P4, P2, 90, 50, 250)
    assert conditional == ((P4, 160), (P2, 90))
    assert guiding == ((P4, 200), (P2, 50))
    assert powerful_last(P4, P2, 30, 0, 250) == (((P4, 220), (P2, 30)), ((P4, 250),))
    assert powerful_last(P4, P2, 250, 250, 250) == (constant(P2, 250), constant(P2, 250))


@pytest.mark.parametrize(("x", "y"), [(251, 0), (0, 251), (-1, 0), (0, -1)])
def test_powerful_last_refuses_what_does_not_fit(x: int, y: int) -> None:
    with pytest.raises(UserError, match=rf"^{x}/{y} powerful steps do not fit into steps=250$"):
        powerful_last(P4, P2, x, y, 250)


@pytest.mark.parametrize(
    ("x", "y", "percent"), [(250, 250, 100), (130, 130, 64), (70, 70, 46), (90, 50, 46), (30, 0, 29)]
)
def test_published_percentages_of_x_over_y(x: int, y: int, percent: float) -> None:
    assert 100 * relative_cost(*powerful_last(P4, P2, x, y, 250), P2, cost) == pytest.approx(percent, abs=0.5)


# ---------------------------------------------------------------- Budgets


@pytest.mark.parametrize("weak", [P4, P8])
@pytest.mark.parametrize("steps", [1, 2, 7, 50, 250])
def test_a_budget_buys_the_dearest_schedule_it_can_pay(weak: Patch, steps: int) -> None:
    every = np.array([share(weak_first(weak, P2, n, steps)) for n in range(steps + 1)])
    floor = COST[weak] / COST[P2]
    for budget in np.linspace(floor, 1, 203):
        bought = share(within_budget(float(budget), steps, weak, P2, cost))
        assert bought <= budget + 1e-9
        assert bought == pytest.approx(every[every <= budget + 1e-9].max(), abs=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 50, 250, 1000])
def test_a_schedules_own_cost_buys_it_back(steps: int) -> None:
    for n in range(steps + 1):
        schedule = weak_first(P4, P2, n, steps)
        assert within_budget(share(schedule), steps, P4, P2, cost) == schedule


def test_the_published_budget() -> None:
    assert within_budget(0.64, 250, P4, P2, cost) == ((P4, 120), (P2, 130))


def test_ends_of_the_budget() -> None:
    floor = COST[P4] / COST[P2]
    assert within_budget(1, 250, P4, P2, cost) == constant(P2, 250)
    assert within_budget(floor, 250, P4, P2, cost) == constant(P4, 250)
    assert within_budget(1, 250, P2, P2, cost) == constant(P2, 250)


def test_below_the_floor_is_refused_and_the_floor_named_is_accepted() -> None:
    with pytest.raises(UserError, match=r"^budget 0\.24 is below what patch 4 alone costs") as caught:
        within_budget(0.24, 250, P4, P2, cost)
    least = float(re.search(r"can do is ([\d.]+)$", str(caught.value))[1])
    assert within_budget(least, 250, P4, P2, cost) == constant(P4, 250)
    with pytest.raises(UserError, match="below"):
        within_budget(least - 2e-4, 250, P4, P2, cost)


@pytest.mark.parametrize("budget", [0, -0.5, 1.01, 64, float("nan"), float("inf")])
def test_a_budget_is_a_share(budget: float) -> None:
    with pytest.raises(UserError, match=r"^budget must lie in \(0, 1\]"):
        within_budget(budget, 250, P4, P2, cost)


# ---------------------------------------------------------------- Segments


def test_segments_join_two_schedules() -> None:
    s1, s2 = 1.5, weak_guide_scale(1.5)
    assert segments(((P4, 160), (P2, 90)), ((P4, 200), (P2, 50)), s1) == [
        Segment(0, 160, P4, P4, s1),
        Segment(160, 200, P2, P4, s2),
        Segment(200, 250, P2, P2, s1),
    ]


def test_segments_of_three_modes() -> None:
    joined = segments(((P8, 2), (P4, 3), (P2, 5)), ((P8, 4), (P4, 6)), 2.0)
    assert [(s.start, s.stop, s.cond_patch, s.guide_patch) for s in joined] == [
        (0, 2, P8, P8),
        (2, 4, P4, P8),
        (4, 5, P4, P4),
        (5, 10, P2, P4),
    ]


def test_segments_without_a_guide() -> None:
    assert segments(((P4, 2), (P2, 3)), None, 1.0) == [Segment(0, 2, P4, None, 1.0), Segment(2, 5, P2, None, 1.0)]


def test_segments_cover_every_step_once() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        steps = int(rng.integers(1, 40))
        conditional = weak_first(P4, P2, int(rng.integers(0, steps + 1)), steps)
        weak_steps = sum(count for patch, count in conditional if patch == P4)
        guiding = weak_first(P4, P2, int(rng.integers(weak_steps, steps + 1)), steps)
        joined = segments(conditional, guiding, 1.5)
        assert [k for s in joined for k in range(s.start, s.stop)] == list(range(steps))
        for which, schedule in ((2, conditional), (3, guiding)):
            stepwise = [s[which] for s in joined for _ in range(s.start, s.stop)]
            assert stepwise == [patch for patch, count in schedule for _ in range(count)]


def test_a_more_powerful_guide_is_refused() -> None:
    with pytest.raises(UserError, match=r"^at step 3 the guide \(patch 2\) is more powerful than .* \(patch 4\)"):
        segments(((P4, 5), (P2, 5)), ((P4, 3), (P2, 7)), 1.5)


# ---------------------------------------------------------------- Plans


def test_a_plan_is_powerful_by_default() -> None:
    assert plan([P2, P4], cost, 10) == (constant(P2, 10), None)


def test_guidance_one_runs_no_guide() -> None:
    assert plan([P2, P4], cost, 10, schedule="4:4,2:6", guide="4:10", guidance=1)[1] is None
    assert plan([P2, P4], cost, 10, budget=0.5, guidance=1.0)[1] is None


def test_the_guide_follows_the_schedule_unless_named() -> None:
    conditional, guiding = plan([P2, P4], cost, 10, schedule="4:4,2:6", guidance=1.5)
    assert guiding == conditional == ((P4, 4), (P2, 6))
    assert plan([P2, P4], cost, 10, schedule="4:4,2:6", guide="4:8,2:2", guidance=1.5)[1] == ((P4, 8), (P2, 2))
    assert plan([P2, P4], cost, 10, budget=0.5, guide="4:10", guidance=1.5)[1] == ((P4, 10),)


def test_with_three_modes_a_budget_mixes_in_the_weakest_or_the_one_named() -> None:
    modes = [P2, P4, P8]
    assert {patch for patch, _ in plan(modes, cost, 50, budget=0.5)[0]} == {P8, P2}
    assert {patch for patch, _ in plan(modes, cost, 50, budget=0.5, weak=P4)[0]} == {P4, P2}
    with pytest.raises(UserError, match="below what patch 4 alone costs"):
        plan(modes, cost, 50, budget=0.1, weak=P4)
    assert plan(modes, cost, 50, budget=0.1)[0][0][0] == P8


def test_the_papers_x_over_y_speaks_for_both_predictions() -> None:
    assert plan([P2, P4], cost, 250, schedule="90/50", guidance=1.5) == powerful_last(P4, P2, 90, 50, 250)
    assert plan([P2, P4], cost, 250, schedule="90/50", guidance=1) == (((P4, 160), (P2, 90)), None)
    assert plan([P2, P4, P8], cost, 10, schedule="4/2", guidance=2.0)[0] == ((P8, 6), (P2, 4))
    assert plan([P2, P4, P8], cost, 10, schedule="4/2", guidance=2.0, weak=P4)[0] == ((P4, 6), (P2, 4))
    with pytest.raises(UserError, match=r"^251/0 powerful steps do not fit into steps=250$"):
        plan([P2, P4], cost, 250, schedule="251/0")
    with pytest.raises(UserError, match=r"leave out guide='4:250'$"):
        plan([P2, P4], cost, 250, schedule="90/50", guide="4:250", guidance=1.5)


def test_plan_refusals() -> None:
    with pytest.raises(UserError, match=r"^give a schedule or a budget, not both \(schedule='4:10', budget=0\.5\)$"):
        plan([P2, P4], cost, 10, schedule="4:10", budget=0.5)
    with pytest.raises(UserError, match=r"^weak=8 is not a mode of this model; it has 2, 4$"):
        plan([P2, P4], cost, 10, budget=0.5, weak=P8)
    for steps in (0, -3):
        with pytest.raises(UserError, match=rf"^steps must be at least 1, got {steps}$"):
            plan([P2, P4], cost, steps)
    with pytest.raises(UserError, match="adds up to 9 steps, but steps=10"):
        plan([P2, P4], cost, 10, guide="4:9", guidance=2.0)
