"""`--mode=sample` and `--mode=evaluate` on a finished run."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flexidit_jax as fd
from flexidit_jax.jobs.sample import contact_sheet
from flexidit_jax.main import main

SMOKE = f"--config={Path(__file__).parents[2] / 'configs' / 'digits.py'}:smoke"
#: as many as a batch of the smoke report: nothing new to compile
LABELS = tuple(range(10)) * 5


@pytest.fixture(scope="module")
def run(smoke_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return shutil.copytree(smoke_run, tmp_path_factory.mktemp("sampled") / "run")


def sample(run: Path, *words: str) -> int:
    return main([SMOKE, f"--workdir={run}", "--mode=sample", f"--config.sample.labels={LABELS}", *words])


def test_sample_writes_a_grid_and_says_what_it_cost(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample(run, "--config.sample.budget=0.7", "--config.sample.seed=5") == 0
    out = capsys.readouterr().out
    flex = fd.load(run)
    cost = flex.flops(steps=4, budget=0.7, guidance=1)
    assert "schedule: 4:2,2:2; guide: none\n" in out
    assert f"FLOPs: {cost.total / 1e9:.3f} G per sample, {100 * cost.relative:.1f} % of every step powerful\n" in out
    assert re.search(r"^seconds: \d+\.\d for 50 samples", out, re.MULTILINE)
    file = Path(re.search(r"^written: (.*)$", out, re.MULTILINE)[1])
    assert file.parent == run / "samples"
    with Image.open(file) as image:
        drawn = np.asarray(image)
    images = flex.sample(LABELS, steps=4, budget=0.7, guidance=1.0, seed=5, progress=False)
    np.testing.assert_array_equal(drawn, np.asarray(contact_sheet(images)))


def test_sample_with_a_schedule_and_a_weak_guide(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["schedule=2:4", "guide=4:4", "guidance=1.5", "budget=None"]
    assert sample(run, *(f"--config.sample.{word}" for word in words)) == 0
    out = capsys.readouterr().out
    assert "schedule: 2:4; guide: 4:4\n" in out
    percent = 100 * fd.load(run).flops(steps=4, schedule="2:4", guide="4:4", guidance=1.5).relative
    assert f"{percent:.1f} % of every step powerful" in out


def test_evaluate_writes_its_scores(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([SMOKE, f"--workdir={run}", "--mode=evaluate", "--config.sample.batch=50"]) == 0
    scores = json.loads((run / "evaluation.json").read_text())
    assert {"fd", "accuracy", "nearest", "samples", "floor_fd", "schedule", "guide", "flops_percent"} <= set(scores)
    assert scores["samples"] == 100
    assert scores["guide"] is None
    flex = fd.load(run)
    assert scores["flops_percent"] == pytest.approx(100 * flex.flops(steps=4, budget=0.56, guidance=1).relative)
    assert scores["flops_percent"] <= 56
    assert scores["fd"] > scores["floor_fd"] > 0
    assert 0 <= scores["accuracy"] <= 1
    out = capsys.readouterr().out
    assert f"100 samples, schedule {scores['schedule']} ({scores['flops_percent']:.1f} % of the FLOPs)" in out
    assert f"FD {scores['fd']:.3f}" in out


def test_evaluate_agrees_with_the_report_of_the_same_row(run: Path) -> None:
    words = ["sample.batch=50", "sample.budget=None", "sample.schedule=4:2,2:2"]
    assert main([SMOKE, f"--workdir={run}", "--mode=evaluate", *(f"--config.{word}" for word in words)]) == 0
    scores = json.loads((run / "evaluation.json").read_text())
    report = json.loads((run / "report" / "report.json").read_text())
    row = next(row for row in report["points"] if (row["order"], row["schedule"]) == ("weak_first", "4:2,2:2"))
    assert scores["fd"] == pytest.approx(row["fd"], rel=1e-6)
    assert scores["accuracy"] == row["accuracy"]
    assert scores["floor_fd"] == pytest.approx(report["floor_fd"])


# ---------------------------------------------------------------- The sheet


def tile(image: Image.Image, row: int, column: int, side: int = 48) -> np.ndarray:
    top, left = row * (side + 1) + 1, column * (side + 1) + 1
    return np.asarray(image)[top : top + side, left : left + side]


def test_contact_sheet_places_every_image() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8)
    sheet = contact_sheet(images)
    assert sheet.mode == "L"
    assert sheet.size == (10 * 49 + 1, 2 * 49 + 1)
    for i, image in enumerate(images):
        np.testing.assert_array_equal(tile(sheet, i // 10, i % 10), np.kron(image[..., 0], np.ones((6, 6), np.uint8)))


@pytest.mark.parametrize(
    ("n", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (3, 2, 2), (7, 3, 3), (4, 4, 1), (10, 10, 1), (40, 10, 4)]
)
def test_contact_sheet_is_no_smaller_than_its_images(n: int, columns: int, rows: int) -> None:
    images = np.full((n, 64, 48, 3), 7, np.uint8)
    sheet = contact_sheet(images, gap=2)
    assert sheet.mode == "RGB"
    assert sheet.size == (columns * 50 + 2, rows * 66 + 2)
    assert (np.asarray(sheet) == 7).all(axis=-1).sum() == n * 64 * 48


def test_contact_sheet_of_a_clip_shows_first_frames() -> None:
    clip = np.zeros((2, 3, 48, 48, 1), np.uint8)
    clip[:, 0] = 200
    assert (tile(contact_sheet(clip), 0, 1) == 200).all()
