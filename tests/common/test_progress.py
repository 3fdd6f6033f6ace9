"""Counting, rates and lines, on a clock that the test turns."""

from __future__ import annotations

import io
import logging
import sys
from functools import partial

import pytest
from tqdm import tqdm

from flexidit_jax.common import compilations, progress
from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.compilations import COMPILED, Waiting
from flexidit_jax.common.progress import Progress, warnings_said


class Clock:
    """Seconds, and what of them went into programs."""

    def __init__(self) -> None:
        self.now, self.compiling = 0.0, Waiting()

    def monotonic(self) -> float:
        return self.now

    def steps(self, bar: Progress, count: int, seconds: float) -> None:
        """So many units, each taking so long."""
        for _ in range(count):
            self.now += seconds
            bar.advance()

    def compiles(self, seconds: float) -> None:
        self.now += seconds
        self.compiling.heard(COMPILED, seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (progress, compilations):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(compilations, "waiting", lambda: clock.compiling)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    @property
    def last(self) -> str:
        """The bar as it stands."""
        return self.getvalue().rpartition("\r")[2]


def test_what_is_to_come_is_said_when_three_steps_were_measured(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    bar = Progress(40, "drawing", start=10, unit="images")
    clock.compiles(100)
    clock.steps(bar, 1, 7)
    assert (bar.rate, capsys.readouterr().err) == (0, "")
    clock.steps(bar, 2, 1)
    assert (bar.rate, capsys.readouterr().err) == (0, "")
    bar.note("4 TFLOP/s")
    clock.steps(bar, 1, 1)  # the third, and there is more than a line's time left
    assert bar.rate == 1
    assert capsys.readouterr().err == "drawing: 14/40 (35 %), 1.0 images/s, about 0:26 left  4 TFLOP/s\n"
    clock.steps(bar, 10, 1)
    assert capsys.readouterr().err == ""
    clock.steps(bar, 1, 1)
    assert capsys.readouterr().err == "drawing: 25/40 (62 %), 1.0 images/s, about 0:15 left  4 TFLOP/s\n"
    clock.steps(bar, 15, 0.5)
    assert capsys.readouterr().err == "drawing: 40/40 (100 %), 1.7 images/s, took 2:09  4 TFLOP/s\n"


def test_time_to_compile_is_part_of_no_rate(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress(1000, "training")
    clock.steps(bar, 4, 0.1)
    assert bar.rate == pytest.approx(10)
    assert capsys.readouterr().err == "training: 4/1000 (0 %), 10.0/s, about 1:40 left\n"
    clock.compiles(3600)
    clock.steps(bar, 1, 0.1)
    assert bar.rate == pytest.approx(10)
    assert capsys.readouterr().err == "training: 5/1000 (0 %), 10.0/s, about 1:40 left\n"


def test_steps_longer_than_the_time_between_lines(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress(9, "drawing", unit="images", also=lambda rate: f"{3000 * rate:.0f} TFLOP/s")
    clock.steps(bar, 3, 60)
    assert capsys.readouterr().err == "drawing: 2/9 (22 %)\ndrawing: 3/9 (33 %)\n"
    clock.steps(bar, 1, 60)
    assert capsys.readouterr().err == "drawing: 4/9 (44 %), 0.017 images/s, 50 TFLOP/s, about 5:00 left\n"
    clock.steps(bar, 4, 30)  # the rate is that of the last few
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "drawing: 8/9 (89 %), 0.033 images/s, 100 TFLOP/s, about 0:30 left"
    bar = Progress(9, "sampling")  # of steps that are slow, seconds
    clock.steps(bar, 4, 60)
    assert capsys.readouterr().err.splitlines()[-1] == "sampling: 4/9 (44 %), 60.0 s each, about 5:00 left"


def test_the_bar_of_a_terminal_says_the_same(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "tqdm", partial(tqdm, mininterval=0))
    with Progress(40, "drawing", unit="images") as bar:
        clock.compiles(3600)
        clock.steps(bar, 3, 1)
        assert "/s" not in terminal.getvalue() and "left" not in terminal.getvalue()
        bar.note("4 TFLOP/s")
        clock.steps(bar, 1, 1)
        assert terminal.last.startswith("drawing:  10%|") and " 4/40 [" in terminal.last
        assert terminal.last.rstrip().endswith(", 1.0 images/s, about 0:36 left, 4 TFLOP/s]")
        clock.steps(bar, 36, 1)
    assert terminal.last.rstrip().endswith(", 1.0 images/s, 4 TFLOP/s]")


def test_parts_of_a_unit_add_up(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress(2, "drawing", every=1e9)
    for k in range(6):
        clock.now = float(k)
        bar.advance(1 / 3)
        assert (capsys.readouterr().err != "") == (k == 5)  # the whole is said once
    assert bar.rate == pytest.approx(1 / 3)


def test_a_total_need_not_be_whole(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    bar = Progress(9 * 0.31, "report", every=5, unit="GFLOP")
    for _ in range(9):
        clock.now += 1
        bar.advance(0.31)
    last = "report: 2/3 (78 %), 0.310 GFLOP/s, about 0:02 left\nreport: 3/3 (100 %), 0.310 GFLOP/s, took 0:09\n"
    assert capsys.readouterr().err == last


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
