"""Counting, rates and lines, on a clock that the test turns."""

from __future__ import annotations

import logging

import pytest

from flexidit_jax.common import progress
from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.progress import Progress, warnings_said


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def test_the_first_advance_says_nothing_of_the_rate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress(40, "drawing", start=10, unit="images")
    assert bar.rate == 0
    clock.now = 100.0  # compiling
    bar.advance(5)
    assert bar.rate == 0
    assert capsys.readouterr().err == ""
    clock.now = 111.0
    bar.note("4 TFLOP/s")
    bar.advance(11)
    assert bar.rate == 1
    assert capsys.readouterr().err == "drawing: 26/40 (65 %), 1.0 images/s, 0:14 left  4 TFLOP/s\n"
    clock.now = 118.0
    bar.advance(14)
    assert capsys.readouterr().err == "drawing: 40/40 (100 %), 2.0 images/s, took 1:58  4 TFLOP/s\n"


def test_parts_of_a_unit_add_up(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress(2, "drawing", every=1e9)
    for k in range(6):
        clock.now = float(k)
        bar.advance(1 / 3)
        assert (capsys.readouterr().err != "") == (k == 5)  # the whole is said once
    assert bar.rate == pytest.approx(1 / 3)


def test_nothing_is_shown_when_not_enabled(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress(2, "drawing", enabled=False)
    for k in range(2):
        clock.now = 20.0 * k
        bar.advance()
    assert capsys.readouterr().err == ""


def test_warnings_are_said_above_the_bar(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("flexidit_jax.data.corrupt")
    with Progress(2, "training") as bar, warnings_said(bar):
        logger.info("of no interest")
        logger.warning("corrupt: %s", "a.jpg")
    assert capsys.readouterr().out == "corrupt: a.jpg\n"
    assert caplog.records == []  # said once
    logger.warning("later")
    assert [record.getMessage() for record in caplog.records] == ["later"]
    assert capsys.readouterr().out == ""


def test_other_processes_warn_by_name_on_standard_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cluster, "first", lambda: False)
    monkeypatch.setattr(cluster, "me", lambda: "process 1 (b): ")
    with Progress(2, "training", enabled=False) as bar, warnings_said(bar):
        logging.getLogger("flexidit_jax.data.corrupt").warning("corrupt: %s", "a.jpg")
    assert capsys.readouterr() == ("", "process 1 (b): corrupt: a.jpg\n")
