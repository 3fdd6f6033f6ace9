"""A save that fails ends the run: one line, status 2, at once."""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import pytest

from flexidit_jax.main import main
from flexidit_jax.runs.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]


def test_a_disk_that_fills_up_ends_the_run_with_one_line(
    tmp_path: Path, quiet: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    least, save = jax.config.jax_persistent_cache_min_compile_time_secs, Checkpoints.save

    def filling_up(self: Checkpoints, number: int, *rest: Any) -> None:
        save(self, number, *rest)
        if number == 4:
            self.wait()
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 1e9)  # half a program would stay for all
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))  # less than one array takes, in every thread

    monkeypatch.setattr(Checkpoints, "save", filling_up)
    run = tmp_path / "run"
    try:
        assert main([quiet, f"--workdir={run}"]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
    error = capsys.readouterr().err.splitlines()[-1]
    folder = run / "checkpoints"
    assert error.startswith(f"error: checkpoint {folder / '6'} could not be written and step 4 stays (File too large)")
    assert [path.name for path in folder.iterdir() if "tmp" not in path.name] == ["4"]


@pytest.mark.parametrize("gone", ["after a save", "during a save", "all of it"])
def test_a_folder_that_goes_away_ends_the_run_with_one_line(
    tmp_path: Path, quiet: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    run = tmp_path / "run"
    folder = run / "checkpoints"
    of = {"after a save": "save", "all of it": "save", "during a save": "_record"}[gone]
    before = getattr(Checkpoints, of)

    def going(self: Checkpoints, *words: Any) -> None:
        if of == "save":
            before(self, *words)
            self.wait()
        shutil.rmtree(run if gone == "all of it" else folder)
        if of == "_record":
            before(self, *words)

    monkeypatch.setattr(Checkpoints, of, going)
    assert main([quiet, f"--workdir={run}"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    number = 4 if gone == "during a save" else 6
    assert line.startswith(f"error: checkpoint {folder / str(number)} could not be written and there is none before it")
    assert line.endswith(
        f": {folder} is gone (deleted, or its share unmounted); bring it back, then give the same command again"
    )


@pytest.mark.slow
def test_a_save_whose_folder_cannot_be_made_ends_the_process(tmp_path: Path, quiet: str) -> None:
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "4.orbax-checkpoint-tmp").symlink_to("nowhere")  # the writers then wait for a folder that never comes
    words = [sys.executable, "-m", "flexidit_jax.main", quiet, f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    (line,) = (line for line in done.stderr.splitlines() if not line.startswith("training: "))  # said every 10 s
    assert line.startswith(f"error: checkpoint {folder / '4'} could not be written and there is none before it (")
    assert line.endswith(" are free; put that right, then give the same command again")
