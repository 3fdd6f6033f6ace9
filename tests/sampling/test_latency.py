"""A budget in milliseconds: which plan it takes, what it refuses, and that sampling runs it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.sampling import calibration
from flexidit_jax.sampling.calibration import Case, cache_file
from flexidit_jax.sampling.latency import Times, within_latency
from flexidit_jax.sampling.packing import LAYOUTS
from flexidit_jax.sampling.plan import Plan

P2, P4 = (1, 2, 2), (1, 4, 4)
STEPS = 5


def weak_first(
    guide: str | None = None, evaluations: Sequence[int] | None = None, guidance: float = 1.0
) -> Callable[[int], Plan]:
    """Number of weak steps -> plan."""

    def make(n: int) -> Plan:
        spec = fd.SampleSpec(schedule=f"4:{n},2:{STEPS - n}", guide=guide, guidance=guidance)
        table = SimpleNamespace(times=range(STEPS), evaluations=evaluations or (1,) * STEPS)
        return spec.plan((P2, P4), table, lambda patch: 1 / np.prod(patch))

    return make


UNGUIDED = weak_first()
#: milliseconds by case name
MS = {
    "2+none": 10.0,
    "4+none": 4.0,
    "2+2": 20.0,
    "4+4": 8.0,
    "2+4 separate": 14.0,
    "2+4 packed": 12.0,
    "2+4 joined": 13.0,
    "2+4 padded": 25.0,
}


def times_from(table: dict[str, float], asked: list[str] | None = None) -> Times:
    def times(cases: Sequence[Case]) -> dict[Case, float]:
        if asked is not None:
            asked.extend(case.name for case in cases)
        return {case: table[case.name] for case in cases}

    return times


TIMES = times_from(MS)


@pytest.mark.parametrize(("limit", "weak"), [(50, 0), (1e9, 0), (49.9, 1), (44, 1), (43.9, 2), (20, 5)])
def test_the_most_powerful_plan_that_is_fast_enough(limit: float, weak: int) -> None:
    """Weak steps cost 4 and powerful ones 10: 50, 44, 38, 32, 26, 20."""
    assert within_latency(limit, UNGUIDED, STEPS, ("separate",), TIMES) == UNGUIDED(weak)


def test_every_evaluation_counts() -> None:
    """The last step evaluates once, the others twice: 90, 78, 66, 54, 42, 36."""
    twice = weak_first(evaluations=[2, 2, 2, 2, 1])
    assert within_latency(78, twice, STEPS, ("separate",), TIMES) == twice(1)
    assert within_latency(41, twice, STEPS, ("separate",), TIMES) == twice(5)


def test_a_weak_guide_and_the_fastest_layout() -> None:
    """Every step guided by patch 4: powerful ones cost 14 apart, 12 packed; weak ones 8."""
    plans = weak_first(guide=f"4:{STEPS}", guidance=1.5)
    asked: list[str] = []
    assert within_latency(60, plans, STEPS, LAYOUTS, times_from(MS, asked)) == plans(0)
    assert sorted(asked) == ["2+4 joined", "2+4 packed", "2+4 padded", "2+4 separate", "4+4"]
    assert within_latency(60, plans, STEPS, ("separate",), TIMES) == plans(2)  # 70, 64, 58
    cases: list[Case] = []
    with pytest.raises(KeyError):
        within_latency(60, plans, STEPS, ("padded",), lambda asked: cases.extend(asked) or {})
    # where one length runs, the program is the one that sampling runs whatever the packing
    assert sorted(cases) == [Case(P2, P4, "padded"), Case(P4, P4, "separate")]


def test_plans_that_guidance_forbids_are_left_out() -> None:
    """The guide is powerful from step 2 on, so that no more than two steps may be weak."""
    plans = weak_first(guide="4:2,2:3", guidance=1.5)
    assert within_latency(76, plans, STEPS, ("separate",), TIMES) == plans(2)  # 88, 82, 76
    with pytest.raises(fd.UserError, match=r"the least it can do is 76$"):
        within_latency(75, plans, STEPS, ("separate",), TIMES)


def test_refusals(flex: fd.FlexiDiT) -> None:
    with pytest.raises(
        fd.UserError,
        match=r"^latency_ms=19\.9 is less than this device takes for a batch of this size and so many steps;"
        r" the least it can do is 20$",
    ):
        within_latency(19.9, UNGUIDED, STEPS, ("separate",), TIMES)
    for bad in (0, -1.0, float("nan"), True, "10"):
        with pytest.raises(fd.UserError, match=r"^latency_ms must be a positive number of milliseconds, got "):
            flex.plan(steps=4, latency_ms=bad, batch=2)
    for words in ({"budget": 0.5}, {"schedule": "2:4"}):
        with pytest.raises(fd.UserError, match=r"^latency_ms goes without a schedule or a budget \(schedule="):
            flex.plan(steps=4, latency_ms=10, batch=2, **words)
    with pytest.raises(fd.UserError, match=r"^latency_ms wants batch=, the samples per call of the network, got None$"):
        flex.plan(steps=4, latency_ms=10)


def test_sampling_plan_and_flops_agree(
    flex: fd.FlexiDiT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLEXIDIT_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr(calibration, "measure", lambda runs, **more: {name: MS[name] for name in runs})
    words = {"steps": 5, "guidance": 1.0, "latency_ms": 38.0}
    chosen = flex.plan(**words, batch=3)
    assert (chosen.schedule, chosen.guide) == ((((1, 4, 4), 2), ((1, 2, 2), 3)), None)
    same = {"steps": 5, "guidance": 1.0, "schedule": "4:2,2:3"}
    assert flex.flops(**words, batch=3) == flex.flops(**same)
    quiet = {"decode": False, "progress": False}
    ours = flex.sample([1, 2, 3, 0], batch=3, **words, **quiet)
    np.testing.assert_array_equal(ours, flex.sample([1, 2, 3, 0], batch=3, **same, **quiet))
    (figures,) = json.loads(cache_file().read_text()).values()
    assert figures == {"2+none": 10.0, "4+none": 4.0}
    assert len(capsys.readouterr().err.splitlines()) == 1  # measured once for all of these
    with pytest.raises(fd.UserError, match=r"the least it can do is 20$"):
        flex.sample([1, 2, 3, 0], batch=3, **{**words, "latency_ms": 12}, **quiet)
