"""What a job compiled, and where the programs are kept."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from flexidit_jax.common.compilations import Compilations
from flexidit_jax.common.program_cache import compiling_anew, keep_programs
from flexidit_jax.main import main

ROOT = Path(__file__).parents[2]
SMOKE = f"--config={ROOT / 'configs' / 'digits.py'}:smoke"
GOLDEN = ROOT / "tests" / "golden" / "dit_tiny.safetensors"


def start(program: str, *argv: object) -> str:
    """Runs a program in a process that was told of no folder for its cache; returns what it printed, warnings included.

    Everything is worth a file there: how long compiling takes is no matter of a test.
    """
    inherited = {key: value for key, value in os.environ.items() if "CACHE" not in key}
    inherited["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    words = [sys.executable, "-c", program, *map(str, argv)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=inherited)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def no_cache() -> Iterator[None]:
    with compiling_anew():  # the option alone is not looked at again where the cache was in use before
        yield


def test_counts_what_is_compiled_inside(no_cache: None) -> None:
    with Compilations() as compiled:
        jax.jit(lambda x: 5 * x + 11)(np.ones(7))
    assert (compiled.count, compiled.from_cache) == (1, 0)
    assert compiled.seconds > 0
    jax.jit(lambda x: 5 * x + 12)(np.ones(7))
    assert compiled.count == 1
    assert re.fullmatch(r"compiling took \d+\.\d s, 0 of 1 programs came from the cache", str(compiled))


#: samples as two starts of one command would: nothing that is in memory survives `clear_caches`
TWICE = """
import sys
from collections.abc import Iterator
from pathlib import Path
import jax
import flexidit_jax as fd
from flexidit_jax.common.program_cache import keep_programs
from flexidit_jax.common.compilations import Compilations
from flexidit_jax.sampling.engine import compiled_programs

keep_programs(Path(sys.argv[1]))
model = fd.load(sys.argv[2])
for _ in range(2):
    jax.clear_caches()
    with Compilations() as compiled:
        model.sample([1], steps=2, guidance=1.0, solver="ddim", decode=False, progress=False)
    print(compiled_programs(), compiled.from_cache)
"""


@pytest.mark.slow
def test_a_second_start_reads_what_the_first_compiled(tmp_path: Path) -> None:
    first, second = start(TWICE, tmp_path / "run", GOLDEN).splitlines()
    assert first == "1 0"
    assert re.fullmatch(r"1 ([2-9]|[1-9]\d)", second)
    kept = {file.name.split("-")[0] for file in (tmp_path / "run" / "cache" / "jax").glob("*-cache")}
    assert {"jit__step", "jit_normal"} <= kept


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_costs_the_cache_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = start(TWICE, tmp_path / "file", GOLDEN)
    assert said == "1 0\n1 0\n"  # and no warning of jax


def test_every_job_keeps_its_programs_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []
    monkeypatch.setattr("flexidit_jax.main.keep_programs", folders.append)
    assert main([SMOKE, f"--workdir={tmp_path}", "--mode=evaluate"]) == 2  # nothing to evaluate there
    assert folders == [tmp_path]


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
