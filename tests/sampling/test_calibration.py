"""The measured choice of a layout: what is measured, when, what is kept, and what becomes of a bad file."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.common.types import Patch
from flexidit_jax.sampling import calibration
from flexidit_jax.sampling.calibration import REPEATS, Case, cache_file, fastest, key_of, measure, milliseconds
from flexidit_jax.sampling.engine import compiled_programs
from flexidit_jax.sampling.packing import LAYOUTS
from flexidit_jax.sampling.schedule import Segment
from flexidit_jax.sampling.spec import SampleSpec

P2, P4, P8 = (1, 2, 2), (1, 4, 4), (1, 8, 8)
CASES = [Case(P2, P4, packing) for packing in LAYOUTS]
#: milliseconds that the fake machine takes
TIMES = {"separate": 9.0, "packed": 4.0, "joined": 6.0, "padded": 12.0}
#: a batch shape that no other module samples at
LABELS = [1, 2, 3, 0, 1, 2, 3]


class Machine:
    """A clock that only moves when a step runs."""

    def __init__(self, times: dict[str, float] = TIMES) -> None:
        self.now, self.times, self.ran = 0.0, times, []

    def clock(self) -> float:
        return self.now

    def run(self, case: Case) -> None:
        self.ran.append(case.packing)
        first = self.ran.count(case.packing) <= 2
        self.now += 100.0 if first else self.times[case.packing] / 1e3  # compiling and warming up are not timed

    def ask(self, cases: Sequence[Case], path: Path, key: str = "here") -> dict[Case, float]:
        return milliseconds(cases, key, self.run, path, self.clock)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file, nowhere near the user's."""
    monkeypatch.setenv("FLEXIDIT_JAX_CACHE", str(tmp_path / "cache"))
    return cache_file()


# ---------------------------------------------------------------- Measuring


def test_the_median_of_steps_run_in_turn() -> None:
    now, order = [0.0], []

    def runs(name: str, times: list[float]) -> Callable[[], None]:
        left = [50.0, 70.0, *times]

        def run() -> None:
            order.append(name)
            now[0] += left.pop(0) / 1e3

        return run

    found = measure({"a": runs("a", [1, 9, 3, 2, 8]), "b": runs("b", [4, 4, 5, 6, 7])}, 5, lambda: now[0])
    assert found == {"a": 3.0, "b": 5.0}
    assert order == ["a", "a", "b", "b"] + ["a", "b"] * 5


def test_measured_once_then_read(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine()
    assert machine.ask(CASES, cache) == {case: TIMES[case.packing] for case in CASES}
    assert len(machine.ran) == len(CASES) * (2 + REPEATS)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        "calibration: measuring 4 kinds of step (2+4 separate, 2+4 packed, 2+4 joined, 2+4 padded), compilation"
        f" included; kept in {cache}\n"
    )
    assert json.loads(cache.read_text()) == {"here": {f"2+4 {name}": time for name, time in TIMES.items()}}
    assert [path.name for path in cache.parent.iterdir()] == ["packing.json"]  # nothing left aside

    other = Machine({})  # would fail if it ran
    assert other.ask(CASES, cache) == {case: TIMES[case.packing] for case in CASES}
    assert other.ran == []
    assert capsys.readouterr().err == ""


def test_entries_are_kept_apart_and_together(cache: Path) -> None:
    Machine().ask(CASES, cache)
    slow = Machine({name: 2 * time for name, time in TIMES.items()})
    assert slow.ask(CASES[:1], cache, key="elsewhere") == {CASES[0]: 18.0}
    more = Machine({"separate": 3.0})
    assert more.ask([Case(P4, None, "separate")], cache) == {Case(P4, None, "separate"): 3.0}
    entries = json.loads(cache.read_text())
    assert entries.keys() == {"here", "elsewhere"}
    assert entries["here"] == {"4+none": 3.0} | {f"2+4 {name}": time for name, time in TIMES.items()}


def test_what_is_compared_is_measured_together(cache: Path) -> None:
    """Where the file lacks one of several layouts, the others are not taken from another day."""
    Machine().ask(CASES[:1], cache)
    slow = Machine({name: 2 * time for name, time in TIMES.items()})
    wanted = {case: 2 * TIMES[case.packing] for case in CASES}
    assert slow.ask(CASES, cache) == wanted
    assert len(slow.ran) == len(CASES) * (2 + REPEATS)
    assert Machine({}).ask(CASES, cache) == wanted  # nothing runs


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"here": 3}', '{"here": {"2+4 packed": "fast"}}', '{"a": {"b": -1}}']
)
def test_a_damaged_file_is_written_anew(cache: Path, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    cache.parent.mkdir()
    cache.write_text(content)
    machine = Machine()
    assert min(machine.ask(CASES, cache).values()) == 4.0
    assert machine.ran
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"calibration: {cache} is damaged and will be written anew"
    assert len(lines) == 2
    assert json.loads(cache.read_text()).keys() == {"here"}


def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert min(Machine().ask(CASES, tmp_path / "file" / "packing.json").values()) == 4.0
    assert "it holds for this call only" in capsys.readouterr().err


def test_where_the_file_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_file() == tmp_path / "cache" / "packing.json"
    monkeypatch.delenv("FLEXIDIT_JAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_file() == tmp_path / "flexidit_jax" / "packing.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_file() == Path.home() / ".cache" / "flexidit_jax" / "packing.json"


def test_the_key_tells_apart_what_changes_the_time(flex: fd.FlexiDiT) -> None:
    model = flex.model
    others = [model.clone(depth=4), model.clone(dtype="bfloat16"), model.clone(latent=(2, 8, 8, 4))]
    others += [others[1].clone(residual="bfloat16"), model.clone(modulation="single")]
    keys = {key_of(other, "shared", 4) for other in [model, *others]}
    keys |= {key_of(model, "rank 8", 4), key_of(model, "shared", 5)}
    assert len(keys) == 8
    assert key_of(model.at(P4), "shared", 4) == key_of(model, "shared", 4)  # the patches are in the entry


# ---------------------------------------------------------------- Choosing


def planned(patches: Sequence[Patch], steps: int = 4, **words: str) -> list[Segment]:
    table = SimpleNamespace(times=range(steps), evaluations=(1,) * steps)
    return list(SampleSpec(guidance=1.5, **words).plan(patches, table, lambda patch: 1 / np.prod(patch)).segments)


def test_a_choice_for_every_pair_of_lengths() -> None:
    """Pairs may differ in what is fastest; steps of one length are left alone."""
    patches = (P2, P4, P8)
    runs = planned(patches, schedule="4:3,2:4", guide="8:4,4:1,2:2", steps=7)
    asked = []

    def times(cases: Sequence[Case]) -> dict[Case, float]:
        asked.append(cases)
        best = {(P4, P8): "joined", (P2, P8): "padded", (P2, P4): "packed"}
        return {case: 1.0 if case.packing == best[case[:2]] else 2.0 for case in cases}

    chosen = fastest(runs, LAYOUTS, times)
    assert [(run.cond_patch, run.guide_patch, run.packing) for run in chosen] == [
        (P4, P8, "joined"),
        (P2, P8, "padded"),
        (P2, P4, "packed"),
        (P2, P2, "separate"),
    ]
    assert len(asked) == 3
    assert [run._replace(packing="separate") for run in chosen] == runs


def test_nothing_is_measured_without_a_choice() -> None:
    def times(cases: Sequence[Case]) -> dict[Case, float]:
        raise AssertionError("measured")

    same = planned((P2, P4), schedule="4:2,2:2")
    assert fastest(same, LAYOUTS, times) == same
    mixed = planned((P2, P4), schedule="2:4", guide="4:2,2:2")
    assert [run.packing for run in fastest(mixed, ("padded",), times)] == ["padded", "separate"]


# ---------------------------------------------------------------- Sampling


def test_auto_takes_what_was_measured(flex: fd.FlexiDiT, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def latents(**words: object) -> np.ndarray:
        return flex.sample(LABELS, **{"schedule": "2/0", "steps": 3, "decode": False, "progress": False, **words})

    latents(schedule="2/2", packing="auto")  # (4, 4) and (2, 2)
    latents(guidance=1.0, packing="auto", schedule="2/2")
    assert not cache.exists()  # there was nothing to choose

    before = compiled_programs()
    separate = latents()
    assert compiled_programs() == before + 1
    assert not cache.exists()
    measured: list[str] = []

    def pretend(runs: dict[str, Callable[[], None]], **more: object) -> dict[str, float]:
        runs["2+4 joined"]()
        measured.extend(runs)
        return {name: 1.0 if name == "2+4 joined" else 2.0 for name in runs}

    monkeypatch.setattr(calibration, "measure", pretend)
    joined = latents(packing="auto")
    assert measured == [f"2+4 {name}" for name in LAYOUTS]
    assert compiled_programs() == before + 2  # what was measured is what samples
    assert 0 < np.abs(joined - separate).max() <= 1e-5 * np.abs(separate).max()
    np.testing.assert_array_equal(latents(packing="auto"), joined)
    np.testing.assert_array_equal(latents(packing="joined"), joined)
    assert len(measured) == len(LAYOUTS)
    latents(packing="auto", guide="4:1,2:2", schedule="2:3", guidance=4.0, solver="ddim")
    assert compiled_programs() == before + 2
    (key,) = json.loads(cache.read_text())
    assert key.endswith("batch 7")


def test_adapters_run_separately(dit: fd.FlexiDiT, cache: Path) -> None:
    adapted = dit.flexify((2, 4), adapters=2)
    words = {"schedule": "2/0", "steps": 2, "decode": False, "progress": False}
    before = compiled_programs()
    adapted.sample(LABELS, **words, packing="auto")
    assert compiled_programs() <= before + 2
    assert not cache.exists()
    with pytest.raises(fd.UserError, match=r"^packing='packed' runs two modes through the same kernels, but adapters"):
        adapted.sample(LABELS, **words, packing="packed")
    with pytest.raises(fd.UserError, match=r"^no packing 'autos'; did you mean 'auto'\?$"):
        adapted.sample(LABELS, **words, packing="autos")
