"""`--mode=search`, end to end on the smoke run; its words from made-up numbers."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import flexidit_jax as fd
from flexidit_jax.common.config import load_config
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress
from flexidit_jax.evaluation.judge import Judge
from flexidit_jax.evaluation.requests import balanced_labels
from flexidit_jax.evaluation.studies.schedule_search import Search, build_search, noise, verdict
from flexidit_jax.evaluation.studies.search_page import findings, gap_per_step, markdown
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.main import main

DIGITS = Path(__file__).parents[2] / "configs" / "digits.py"
SMOKE = f"--config={DIGITS}:smoke"
FIRST = "--config.sample.first=20"


@pytest.fixture(scope="module")
def searched(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke run with `search/` beside its report, of two scales."""
    run = shutil.copytree(smoke_run, tmp_path_factory.mktemp("searched") / "run")
    (run / "search").mkdir()
    (run / "search" / "old.txt").touch()
    assert main([SMOKE, f"--workdir={run}", "--mode=search", "--config.search.guidance=(1.0,1.5)", FIRST]) == 0
    return run


def test_steps_are_whole_on_the_axis() -> None:
    measured = {"1.0": [[0.0] * 4, [0.4, 0.3, 0.2, 0.1]]}
    figure = gap_per_step({"gaps": measured, "errors": measured, "modes": ["2", "4"], "records": 8})
    for panel in figure.axes:
        assert [*panel.get_xticks()] == [round(tick) for tick in panel.get_xticks()]


# ---------------------------------------------------------------- End to end


def test_what_is_written(searched: Path) -> None:
    folder = searched / "search"
    assert {path.name for path in folder.iterdir()} == {"search.json", "search.md", "gaps.png", "pareto.png"}
    assert not folder.with_name("search.tmp").exists()
    for name in ("gaps.png", "pareto.png"):
        with Image.open(folder / name) as image:
            image.load()
            assert min(image.size) > 100
    result = json.loads((folder / "search.json").read_text())
    assert (folder / "search.md").read_text() == markdown(result)
    assert result["modes"] == ["2", "4"] and len(result["times"]) == 4
    for scale in ("1.0", "1.5") if "1.0" in result["gaps"] else ("1", "1.5"):
        powerful, weak = np.array(result["gaps"][scale])
        assert not powerful.any() and (weak > 0).all()


def test_rows_keep_their_budget_and_say_what_they_cost(searched: Path) -> None:
    flex = fd.load(searched)
    rows = json.loads((searched / "search" / "search.json").read_text())["rows"]
    assert [(row["budget"], row["kind"]) for row in rows] == [
        (None, "full"),
        *((budget, kind) for budget in (0.7, 0.5) for kind in ("searched", "weak_first")),
    ]
    for row in rows:
        flops = flex.flops(4, row["schedule"], guidance=row["guidance"])
        assert row["flops_percent"] == pytest.approx(100 * flops.relative)
        assert row["flops_percent_unguided"] == pytest.approx(100 * flops.relative_unguided)
        assert row["flops_percent"] <= 100 * (row["budget"] or 1) + 1e-9
        assert row["gflops"] == pytest.approx(flops.total / 1e9)
        assert len(row["fd"]) == len(row["accuracy"]) == 2
        tried = {float(scale): fd for scale, fd in row["fd_by_scale"].items()}
        assert set(tried) == {1.0, 1.5} and row["guidance"] == min(tried, key=tried.get)
    for first in rows[2::2]:
        plan = flex.plan(4, budget=first["budget"], guidance=first["guidance"])
        assert first["schedule"] == str(plan).split(";")[0]
    for found, first in zip(rows[1::2], rows[2::2], strict=True):
        if found["guidance"] == first["guidance"]:
            assert found["predicted"] <= first["predicted"] * (1 + 1e-9)


def test_a_score_belongs_to_its_schedule_scale_and_seed(searched: Path) -> None:
    row = json.loads((searched / "search" / "search.json").read_text())["rows"][2]
    experiment = build_experiment(load_config(f"{DIGITS}:smoke"))
    judge = Judge(experiment.dataset, experiment.codec, experiment.evaluate.features)
    labels = balanced_labels(50, 10)
    words = {"schedule": row["schedule"], "guidance": row["guidance"], "seed": 1, "first": 20}
    score = judge.score(fd.load(searched).sample(labels, 4, progress=False, **words), labels)
    assert score.fd == pytest.approx(row["fd"][1], rel=1e-4)
    assert score.accuracy == row["accuracy"][1]


def test_a_negative_is_measured_and_scored_with(
    smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn, sample = set(), fd.FlexiDiT.sample
    monkeypatch.setattr(
        fd.FlexiDiT, "sample", lambda *args, **words: drawn.add(words["negative"]) or sample(*args, **words)
    )
    made, advance = [], Progress.advance
    monkeypatch.setattr(Progress, "advance", lambda bar, units: made.append(units) or advance(bar, units))
    gaps = {}
    for negative in ("None", "3"):
        run = shutil.copytree(smoke_run, tmp_path / negative)
        words = [
            "search.guidance=(1.0,1.5)",
            "search.budgets=(0.7,0.3)",  # at 0.3 weak-first is all that can be found: not drawn twice
            "search.seeds=(0,)",
            f"sample.negative={negative}",
        ]
        assert main([SMOKE, f"--workdir={run}", "--mode=search", *(f"--config.{word}" for word in words)]) == 0
        gaps[negative] = list(json.loads((run / "search" / "search.json").read_text())["gaps"].values())
        last = capsys.readouterr().err.splitlines()[-1]  # of one bar, to whose end all pieces add up
        total = re.fullmatch(r"search: (\d+)/\1 \(100 %\), [\d.]+ GFLOP/s, took \d+:\d\d", last)[1]
        assert sum(made) == pytest.approx(int(total), abs=0.5)
        made.clear()
    assert drawn == {None, 3}
    np.testing.assert_array_equal(gaps["None"][0], gaps["3"][0])  # at scale 1 nothing guides
    assert np.abs(np.subtract(gaps["None"][1], gaps["3"][1])[1:]).min() > 0


def test_three_modes_and_nothing_to_score_by(smoke_run: Path, tmp_path: Path) -> None:
    """`init_from` brings a model of three modes; without an evaluate section schedules are found all the same."""
    fd.load(smoke_run).export(tmp_path / "one.safetensors", 2)
    fd.load(tmp_path / "one.safetensors").flexify((2, 4, 8)).save(tmp_path / "three")
    (tmp_path / "bare.py").write_text(
        "import runpy\n\n\n"
        "def get_config():\n"
        f"    config = runpy.run_path({str(DIGITS)!r})['get_config']('smoke')\n"
        "    config.evaluate = config.report = None\n"
        "    config.search.update(guidance=None, budgets=(0.4, 0.2))\n"
        f"    config.init_from = {str(tmp_path / 'three')!r}\n"
        "    return config\n"
    )
    run = tmp_path / "run"
    assert main([f"--config={tmp_path / 'bare.py'}", f"--workdir={run}", "--mode=search"]) == 0
    result = json.loads((run / "search" / "search.json").read_text())
    assert result["modes"] == ["2", "4", "8"] and np.shape(result["gaps"]["1.0"]) == (3, 4)
    assert all("fd" not in row for row in result["rows"])
    for row in result["rows"][1:]:
        assert row["flops_percent"] <= 100 * row["budget"]
    text = (run / "search" / "search.md").read_text()
    assert "Nothing was scored" in text and "| FD |" not in text


# ---------------------------------------------------------------- Words


def row(kind: str, schedule: str, fds: list[float], budget: float | None = 0.5, guidance: float = 1.0) -> dict:
    return {
        "budget": budget,
        "kind": kind,
        "schedule": schedule,
        "guidance": guidance,
        "gflops": 0.5,
        "flops_percent": 49.0,
        "flops_percent_unguided": 98.0,
        "predicted": 0.1,
        "fd": fds,
        "accuracy": [0.9, 0.92],
        "fd_by_scale": {},
    }


def result_of(*rows: dict) -> dict[str, Any]:
    more = {"samples": 100, "seeds": [0, 1], "records": 50, "weight": "moved", "floor_fd": 0.1}
    return {"rows": list(rows), **more}


def test_verdicts() -> None:
    """Three standard errors: 3 x 0.02 / sqrt(2) = 0.042."""
    first = row("weak_first", "4:5,2:5", [1.0, 1.1])
    assert verdict(row("searched", "4:5,2:5", [1.0, 1.1]), first, 0.02) == "same"
    assert verdict(row("searched", "4:5,2:5", [0.7, 0.8], guidance=1.5), first, 0.02) == "better"
    assert verdict(row("searched", "4:4,2:5,4:1", [0.96, 1.06]), first, 0.02) == "within noise"
    assert verdict(row("searched", "4:4,2:5,4:1", [0.95, 1.06]), first, 0.02) == "better"
    assert verdict(row("searched", "2:5,4:5", [1.05, 1.14]), first, 0.02) == "worse"
    assert verdict(row("searched", "2:5,4:5", [1.2]), row("weak_first", "4:5,2:5", [1.0]), None) == "unknown"


def test_the_noise_is_that_of_the_differences_where_there_are_any() -> None:
    first, again = row("weak_first", "4:5,2:5", [1.0, 2.0]), row("weak_first", "4:3,2:7", [1.0, 1.0])
    pairs = [
        (row("searched", "2:5,4:5", [1.1, 2.3]), first),  # differences 0.1 and 0.3: variance 0.02
        (row("searched", "2:7,4:3", [1.0, 1.0]), again),
        (first, first),
    ]
    assert noise(pairs) == pytest.approx(0.1)
    assert noise(pairs[2:]) is None
    assert noise([(row("searched", "4:10", [1.0]), row("weak_first", "2:10", [2.0]))]) is None


def test_findings_say_plainly_whether_the_search_earned_anything() -> None:
    first = row("weak_first", "4:5,2:5", [1.0, 1.02])
    lines = findings(result_of(row("full", "2:10", [0.9, 0.91], None), row("searched", "4:5,2:5", [1.0, 1.02]), first))
    assert lines[0].endswith("1.000x: the search chose weak-first itself and earned nothing.")
    assert lines[1:] == ["- In all: the search beats weak-first beyond the noise at 0 of 1 budgets."]
    lines = findings(result_of(row("searched", "4:4,2:5,4:1", [0.7, 0.73]), first))
    wanted = "- Budget 0.5: searched FD 0.715, weak-first 1.010, 0.708x: the search is better beyond the noise."
    assert lines[0] == wanted
    assert (
        "at 1 of 1 budgets" in lines[1]
        and "vary by 0.0071" in lines[2]
        and "three standard errors on, 0.0150." in lines[2]
    )
    one = [dict(entry, fd=entry["fd"][:1]) for entry in (row("searched", "4:10", [0.7]), first)]
    assert findings({**result_of(*one), "seeds": [0]})[0].endswith("one seed does not tell whether that is noise.")


def test_every_row_is_in_the_table() -> None:
    text = markdown(result_of(row("searched", "4:4,2:5,4:1", [0.7, 0.72]), row("weak_first", "4:5,2:5", [1.0, 1.02])))
    assert "| 0.5 | searched | 4:4,2:5,4:1 | 1.0 | 0.5 | 49.0 | 98.0 | 0.1 | 0.710 | 0.910 |" in text
    assert "| 0.5 | weak first | 4:5,2:5 |" in text


# ---------------------------------------------------------------- Refusals


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"budgets": ()}, r"^search\.budgets must be a list of different numbers, got \(\)$"),
        ({"budgets": (0.5, 0.5)}, r"^search\.budgets must be a list of different numbers"),
        ({"budgets": (1.5,)}, r"^search\.budgets must lie in \(0, 1\], got 1\.5$"),
        ({"max_segments": 0}, r"^search\.max_segments must be positive, got 0$"),
        ({"records": 0}, r"^search\.records must be positive"),
        ({"seeds": (1, 1)}, r"^search\.seeds must be a list of different numbers"),
        ({"weight": "mse"}, r"^search\.weight must be one of moved, none, got 'mse'$"),
        ({"budget": (0.5,)}, r"^unknown config key 'search\.budget'; did you mean 'budgets'\?$"),
    ],
)
def test_sections_that_will_not_do(words: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_search({"budgets": (0.5,), **words}, fd.SampleSpec(), 100)


def test_scales_want_scores() -> None:
    assert build_search({"budgets": (0.5,)}, fd.SampleSpec(guidance=1.2), None) == Search((0.5,), guidance=(1.2,))
    with pytest.raises(UserError, match=r"^config key 'evaluate' is missing; search\.guidance chooses"):
        build_search({"budgets": (0.5,), "guidance": (1.0, 1.5)}, fd.SampleSpec(), None)


def test_a_guide_apart_and_a_model_of_one_mode_are_refused(
    smoke_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([SMOKE, f"--workdir={smoke_run}", "--mode=search", "--config.sample.guide=4:4"]) == 2
    assert "search wants sample.guide=None, each mode guiding itself, got '4:4'" in capsys.readouterr().err
    flex = fd.load(smoke_run)
    flex.export(tmp_path / "one.safetensors", 2)
    argv = [SMOKE, f"--workdir={tmp_path / 'run'}", "--mode=search", f"--config.init_from={tmp_path}/one.safetensors"]
    assert main(argv) == 2
    assert "there is nothing to search: the model has one mode, 2" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
