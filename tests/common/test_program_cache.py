"""Where compiled programs are kept: those of jobs, those of Python sessions, and how much room these take."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import pytest

import flexidit_jax as fd
from flexidit_jax.common import program_cache
from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.program_cache import keep_programs, keep_session_programs
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


def kept_in(folder: Path) -> set[str]:
    """The names of the programs there."""
    return {file.name.split("-")[0] for file in folder.glob("*-cache")}


#: samples as two starts of one command would: nothing that is in memory survives `clear_caches`
TWICE = """
import os
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
    assert first == "2 0"  # a step and a table
    assert re.fullmatch(r"2 ([2-9]|[1-9]\d)", second)
    assert {"jit__step", "jit__modulations", "jit_normal"} <= kept_in(tmp_path / "run" / "cache" / "jax")


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_costs_the_cache_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = start(TWICE, tmp_path / "file", GOLDEN)
    assert said == "2 0\n2 0\n"  # and no warning of jax


def test_every_job_keeps_its_programs_in_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[Path] = []
    monkeypatch.setattr("flexidit_jax.main.keep_programs", folders.append)
    assert main([SMOKE, f"--workdir={tmp_path}", "--mode=evaluate"]) == 2  # nothing to evaluate there
    assert folders == [tmp_path]


# ---------------------------------------------------------------- Sessions


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's cache folder, of a user who said nothing of one."""
    options = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = {name: getattr(jax.config, name) for name in options}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.delenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", raising=False)
    monkeypatch.setenv("FLEXIDIT_JAX_CACHE", str(tmp_path / "user"))
    jax.config.update("jax_compilation_cache_dir", None)
    with warnings.catch_warnings():
        yield tmp_path / "user"
    for name, value in before.items():
        jax.config.update(name, value)


def test_a_session_keeps_its_programs_with_the_user(home: Path, tmp_path: Path) -> None:
    keep_session_programs()
    assert jax.config.jax_compilation_cache_dir == str(home / "jax")
    assert jax.config.jax_persistent_cache_min_compile_time_secs == program_cache.LEAST
    assert not home.exists()  # made when there is something to keep
    keep_programs(tmp_path)
    assert jax.config.jax_compilation_cache_dir == str(home / "jax")


def test_loading_and_sampling_do_so(home: Path, dit: fd.FlexiDiT, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[None] = []
    for module in ("api", "loading"):
        monkeypatch.setattr(f"flexidit_jax.{module}.keep_session_programs", lambda: asked.append(None))
    with pytest.raises(fd.UserError):
        fd.load(home / "nothing")
    assert len(asked) == 1
    assert fd.FlexiDiT(dit.model, dit.params, dit.process, None).sampler
    assert len(asked) == 2


def test_a_job_s_folder_holds(home: Path, tmp_path: Path) -> None:
    keep_programs(tmp_path)
    keep_session_programs()
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "cache" / "jax")


@pytest.mark.parametrize("keep", [keep_session_programs, lambda: keep_programs(Path("run"))])
@pytest.mark.parametrize("set_to", ["", "elsewhere"])
def test_what_the_user_set_holds(
    home: Path, monkeypatch: pytest.MonkeyPatch, set_to: str, keep: Callable[[], None]
) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", set_to)  # jax itself read the variable when it was imported
    keep()
    assert jax.config.jax_compilation_cache_dir is None
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    jax.config.update("jax_compilation_cache_dir", "in Python")
    keep()
    assert jax.config.jax_compilation_cache_dir == "in Python"


def test_several_processes_and_users_without_a_home_keep_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as several:
        several.setattr(cluster, "several", lambda: True)
        keep_session_programs()

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(program_cache, "cache_folder", homeless)
    keep_session_programs()
    assert jax.config.jax_compilation_cache_dir is None


def test_what_was_not_used_for_longest_goes(home: Path) -> None:
    folder = home / "jax"
    folder.mkdir(parents=True)
    for name, read, written in (("a", 100, 1), ("below/b", 2, 2), ("c", 3, 99), ("d", 4, 4)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(bytes(10))
        os.utime(folder / name, (read, written))
    keep_session_programs(room=40)
    assert {file.name for file in folder.rglob("?")} == {*"abcd"}
    jax.config.update("jax_compilation_cache_dir", None)
    keep_session_programs(room=29)
    assert {file.name for file in folder.rglob("?")} == {*"ac"}


@pytest.mark.slow
def test_a_second_session_reads_what_the_first_compiled(tmp_path: Path) -> None:
    session = TWICE.replace("keep_programs(Path(sys.argv[1]))", "os.environ['FLEXIDIT_JAX_CACHE'] = sys.argv[1]")
    first, second = start(session, tmp_path, GOLDEN).splitlines()
    assert first == "2 0"  # a step and a table
    assert re.fullmatch(r"2 ([2-9]|[1-9]\d)", second)
    assert {"jit__step", "jit__modulations", "jit_normal"} <= kept_in(tmp_path / "jax")
