"""`kill -9` changes nothing: the benchmark that kills a run 25 times, with three."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

KILLS = Path(__file__).parents[2] / "benchmarks" / "kills.py"


@pytest.mark.slow
def test_a_run_that_is_killed_ends_as_one_that_is_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = runpy.run_path(str(KILLS))["main"](["--kills=3", f"--out={tmp_path / 'kills'}"])
    said = capsys.readouterr()
    assert status == 0, said
    assert "3 kills (1 at step, 1 at save, 1 at checksums; " in said.out
    assert said.out.endswith("the same as the unbroken run, to the bit, batch for batch\n")
