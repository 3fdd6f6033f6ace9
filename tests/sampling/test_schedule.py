"""Schedules as data: what they spell, and how two of them join."""

from __future__ import annotations

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.programs.export import parse_pairs
from flexidit_jax.sampling.calibration import Case
from flexidit_jax.sampling.guidance import weak_guide_scale
from flexidit_jax.sampling.schedule import (
    GuideSchedule,
    Schedule,
    Segment,
    constant,
    pair_text,
    parse,
    parse_guide,
    parse_numbers,
    powerful_last,
    segments,
    text_of,
    weak_first,
    weak_last,
)

P2, P4, P8 = (1, 2, 2), (1, 4, 4), (1, 8, 8)
VIDEO = (2, 4, 4)


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


def test_a_pair_has_one_name() -> None:
    """Which `export.pairs` reads, and the file of measured times says too."""
    names = [pair_text(P4, None), pair_text(P2, P4), pair_text(P2, VIDEO)]
    assert names == ["4+none", "2+4", "2+2x4x4"]
    assert parse_pairs(names, [P2, P4, VIDEO]) == [(P4, None), (P2, P4), (P2, VIDEO)]
    assert [Case(P4, None, "separate").name, Case(P2, P2, "packed").name] == ["4+none", "2+2"]


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


def test_a_guide_may_be_none() -> None:
    guide = parse_guide("none:2, 4:3,2:1", 6, [P2, P4])
    assert guide == ((None, 2), (P4, 3), (P2, 1))
    assert text_of(guide) == "none:2,4:3,2:1"
    assert parse_guide("none:6", 6, [P2, P4]) == ((None, 6),)
    with pytest.raises(UserError, match=r"uses patch 8; the model has 2, 4$"):
        parse_guide("none:2,8:4", 6, [P2, P4])
    with pytest.raises(UserError, match=r"^schedule 'none:2,4:3' adds up to 5 steps, but steps=6$"):
        parse_guide("none:2,4:3", 6, [P2, P4])
    with pytest.raises(UserError, match=r"^patch 'none' is not "):
        parse("none:2,4:4", 6, [P2, P4])


def test_numbers_by_stretches() -> None:
    np.testing.assert_array_equal(parse_numbers("1:2,1.5:3", 5, "guidance"), [1, 1, 1.5, 1.5, 1.5])
    np.testing.assert_array_equal(parse_numbers(2, 3, "guidance"), [2.0, 2.0, 2.0])
    with pytest.raises(UserError, match=r"^guidance '1:2,1.5:2' adds up to 4 steps, but steps=5$"):
        parse_numbers("1:2,1.5:2", 5, "guidance")
    for text in ("high", "1.5", "a:5", "1:2;2:3"):
        with pytest.raises(UserError, match=r"^guidance '.*' is not of the form a number, or number:steps"):
            parse_numbers(text, 5, "guidance")


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


# ---------------------------------------------------------------- Segments


def joined_at(schedule: Schedule, guide: GuideSchedule | None, s1: float) -> list[Segment]:
    steps = sum(count for _, count in schedule)
    return list(segments(schedule, guide, np.full(steps, s1), np.full(steps, weak_guide_scale(s1))))


def test_segments_join_two_schedules() -> None:
    s1, s2 = 1.5, weak_guide_scale(1.5)
    assert joined_at(((P4, 160), (P2, 90)), ((P4, 200), (P2, 50)), s1) == [
        Segment(0, 160, P4, P4, s1),
        Segment(160, 200, P2, P4, s2),
        Segment(200, 250, P2, P2, s1),
    ]


def test_segments_of_three_modes() -> None:
    joined = joined_at(((P8, 2), (P4, 3), (P2, 5)), ((P8, 4), (P4, 6)), 2.0)
    assert [(s.start, s.stop, s.cond_patch, s.guide_patch) for s in joined] == [
        (0, 2, P8, P8),
        (2, 4, P4, P8),
        (4, 5, P4, P4),
        (5, 10, P2, P4),
    ]


def test_segments_without_a_guide() -> None:
    assert joined_at(((P4, 2), (P2, 3)), None, 1.0) == [Segment(0, 2, P4, None, 1.0), Segment(2, 5, P2, None, 1.0)]


def test_segments_cover_every_step_once() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        steps = int(rng.integers(1, 40))
        conditional = weak_first(P4, P2, int(rng.integers(0, steps + 1)), steps)
        weak_steps = sum(count for patch, count in conditional if patch == P4)
        guiding = weak_first(P4, P2, int(rng.integers(weak_steps, steps + 1)), steps)
        joined = joined_at(conditional, guiding, 1.5)
        assert [k for s in joined for k in range(s.start, s.stop)] == list(range(steps))
        for which, schedule in ((2, conditional), (3, guiding)):
            stepwise = [s[which] for s in joined for _ in range(s.start, s.stop)]
            assert stepwise == [patch for patch, count in schedule for _ in range(count)]


def test_a_more_powerful_guide_is_refused() -> None:
    with pytest.raises(UserError, match=r"^at step 3 the guide \(patch 2\) is more powerful than .* \(patch 4\)"):
        joined_at(((P4, 5), (P2, 5)), ((P4, 3), (P2, 7)), 1.5)


def test_a_guide_where_its_scale_is_not_one() -> None:
    schedule, guide = ((P4, 2), (P2, 4)), ((None, 1), (P4, 3), (P2, 2))
    runs = segments(schedule, guide, np.array([9, 2, 9, 9, 3, 1.0]), np.array([9, 9, 1.0, 1.5, 9, 9]))
    assert list(runs) == [
        Segment(0, 1, P4, None, 1.0),
        Segment(1, 2, P4, P4, 2.0),
        Segment(2, 3, P2, None, 1.0),
        Segment(3, 4, P2, P4, 1.5),
        Segment(4, 5, P2, P2, 3.0),
        Segment(5, 6, P2, None, 1.0),
    ]
