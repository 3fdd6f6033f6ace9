"""What a job compiled, and where the programs are kept."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from flexidit_jax.common.program_cache import keep_programs
from flexidit_jax.jobs.parts.compilation import Compilations, pair_name

ROOT = Path(__file__).parents[2]
SMOKE = f"--config={ROOT / 'configs' / 'digits.py'}:smoke"


def start(program: str, *argv: object) -> str:
    """Runs a program in a process that was told nothing of caches; returns what it printed, warnings included."""
    inherited = {key: value for key, value in os.environ.items() if "CACHE" not in key}
    words = [sys.executable, "-c", program, *map(str, argv)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=inherited)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_counts_what_is_compiled_inside() -> None:
    with Compilations() as compiled:
        jax.jit(lambda x: 5 * x + 11)(np.ones(7))
    assert (compiled.count, compiled.from_cache) == (1, 0)
    assert compiled.seconds > 0
    jax.jit(lambda x: 5 * x + 12)(np.ones(7))
    assert compiled.count == 1
    assert re.fullmatch(r"compiling took \d+\.\d s, 0 of 1 programs came from the cache", str(compiled))


def test_pair_name() -> None:
    assert (pair_name((1, 4, 4), None), pair_name((1, 2, 2), (2, 4, 4))) == ("4 alone", "2+2x4x4")


@pytest.mark.slow
def test_the_second_start_reads_what_the_first_compiled(smoke_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(smoke_run, tmp_path / "run")
    twice = (
        "import sys, jax; from flexidit_jax.main import main; jax.config.update('jax_compilation_cache_dir', None)\n"
        "for _ in range(2): jax.clear_caches(); assert main(sys.argv[1:]) == 0"
    )
    words = [SMOKE, f"--workdir={run}", "--mode=sample", "--config.sample.budget=None"]
    out = start(twice, *words, "--config.sample.schedule=2:4")
    form = r"^programs: 1 \(2 alone\); compiling took .* s, (\d+) of \d+ programs came from the cache$"
    first, second = (int(found) for found in re.findall(form, out, re.MULTILINE))
    assert first == 0
    assert second >= 1
    assert len(list((run / "cache" / "jax").glob("jit__step-*-cache"))) == 1


KEEP = """
import sys
from pathlib import Path
from flexidit_jax.common.program_cache import keep_programs
keep_programs(Path(sys.argv[1]))
import jax, numpy as np
jax.jit(lambda x: x + 1)(np.ones(3))
"""


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_costs_the_cache_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "Error reading persistent compilation cache" in start(KEEP, tmp_path / "file" / "run")


@pytest.mark.parametrize("set_to", ["", "elsewhere"])
def test_what_the_user_set_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, set_to: str) -> None:
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", set_to)
    try:
        jax.config.update("jax_compilation_cache_dir", None)  # jax itself read the variable when it was imported
        keep_programs(tmp_path)
        assert jax.config.jax_compilation_cache_dir is None
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
        jax.config.update("jax_compilation_cache_dir", "in Python")
        keep_programs(tmp_path)
        assert jax.config.jax_compilation_cache_dir == "in Python"
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
