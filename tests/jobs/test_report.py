"""The report's rows, words and pictures, from made-up numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress
from flexidit_jax.evaluation.judge import Score
from flexidit_jax.evaluation.requests import Requests
from flexidit_jax.evaluation.studies.quality_page import findings, markdown, quality_vs_compute, sample_grid
from flexidit_jax.evaluation.studies.quality_vs_compute import Report, _against, _of_captions, measure
from flexidit_jax.metrics.estimate import mean_of
from flexidit_jax.models.flops import FlopCount
from flexidit_jax.sampling.spec import SampleSpec

P2, P4, P8 = (1, 2, 2), (1, 4, 4), (1, 8, 8)
HALF = mean_of(np.arange(400) % 2)


# ---------------------------------------------------------------- Rows


def test_points() -> None:
    guided = [{"guide": "2:50", "guidance": 1.5}, {"guide": "4:50", "guidance": 1.5, "packing": "packed"}]
    solvers = [{"solver": "dpmpp_2m", "steps": 20, "weak": 8}]
    rows = Report(1500, 50, 250, (0, 20, 50), (20,), (35, 13), guided, solvers=solvers).points((P2, P4))
    assert [(row.order, row.spec.schedule, row.spec.steps) for row in rows] == [
        ("weak_first", "2:50", 50),
        ("weak_first", "4:20,2:30", 50),
        ("weak_first", "4:50", 50),
        ("weak_last", "2:30,4:20", 50),
        ("fewer_steps", "2:35", 35),
        ("fewer_steps", "2:13", 13),
        ("weak_first", "4:8,2:12", 20),
        ("weak_first", "2:50", 50),
        ("weak_first", "2:50", 50),
    ]
    assert [row.spec.guidance for row in rows] == [1.0] * 7 + [1.5] * 2
    assert [row.spec.guide for row in rows] == [None] * 7 + ["2:50", "4:50"]
    assert [row.spec.solver for row in rows] == ["ddpm"] * 6 + ["dpmpp_2m"] + ["ddpm"] * 2
    assert rows[-1].spec.packing == "packed"


def test_a_front_draws_every_schedule_of_weak_first_at_every_scale() -> None:
    rows = Report(20, 10, 10, (0, 4), (4,), solver="ddim", scales=(1.5, 3)).points((P2, P4))[3:]
    assert [(row.spec.schedule, row.spec.guidance, row.spec.guide) for row in rows] == [
        *(("2:10", 1.5, None), ("4:4,2:6", 1.5, None)),
        *(("2:10", 3.0, None), ("4:4,2:6", 3.0, None)),
    ]
    assert {(row.order, row.spec.solver, row.spec.seed) for row in rows} == {("weak_first", "ddim", 0)}


def test_how_long_it_takes_is_counted_in_flops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pieces are steps of a batch, each of what its point costs; those of all seeds add up to the whole."""
    made: list[float] = []
    advance = Progress.advance
    monkeypatch.setattr(Progress, "advance", lambda bar, units: made.append(units) or advance(bar, units))
    costs = {"2:4": 4e9, "4:2,2:2": 3e9, "2:2": 2e9}

    def sample(
        labels: np.ndarray, spec: SampleSpec, progress: Callable[[], None], batch: int = 2, first: int = 0
    ) -> np.ndarray:
        for _ in range(len(labels) // batch * spec.steps):
            progress()
        return np.zeros((len(labels), 8, 8, 1), np.uint8)

    flex = SimpleNamespace(
        patches=(P2, P4),
        model=SimpleNamespace(conditioner=SimpleNamespace(classes=2)),
        flops=lambda spec: FlopCount(costs[spec.schedule], 1.0, 1.0),
        sample=sample,
    )
    judge, requests = MagicMock(), Requests(np.arange(4) % 2)
    judge.reading.said.return_value = {}
    judge.score.return_value = Score(mean_of(np.ones(4)), mean_of(np.ones(4)), 1.0)
    section = Report(samples=4, steps=4, batch=2, weak_first=(0, 2), fewer_steps=(2,), seeds=(0, 1))
    measure(flex, section, judge, requests)
    assert {*made} == {2.0, 1.5} and sum(made) == 72
    assert capsys.readouterr().err.splitlines()[-1].startswith("report: 72/72 (100 %), ")


def test_points_of_three_modes_mix_the_ends() -> None:
    rows = Report(20, 10, 10, (0, 4), (4,), (5,)).points((P2, P4, P8))
    assert [row.spec.schedule for row in rows] == ["2:10", "8:4,2:6", "2:6,8:4", "2:5"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"batch": 7}, r"report\.batch=7 must divide evaluate\.samples=20 at least twice"),
        ({"batch": 20}, r"at least twice"),
        ({"weak_first": (4, 0)}, r"report\.weak_first must begin with 0"),
        ({"solvers": [{"solver": "ddim", "steps": 5}]}, r"a row of report\.solvers holds solver, steps and weak"),
        ({"solvers": [{"solver": "ddim", "steps": 5, "weak": 6}]}, r"weak, at most steps, got"),
        ({"guidance": [{"guide": "4:10"}]}, r"a row of report\.guidance holds guide, guidance and packing, got guide"),
        ({"weak_last": (11,)}, r"must lie in 0\.\.report\.steps=10"),
        ({"seeds": ()}, r"report\.seeds must be a list of different numbers, got \(\)"),
        ({"seeds": 3}, r"report\.seeds must be a list of different numbers, got 3"),
        ({"seeds": (1, 1)}, r"report\.seeds must be a list of different numbers"),
        ({"scales": (1.0, 1.5)}, r"report\.scales must be a list of numbers above 1, got \(1\.0, 1\.5\)"),
        ({"scales": 1.5}, r"report\.scales must be a list of numbers above 1, got 1\.5"),
        ({"scales": "1.5"}, r"report\.scales must be a list of numbers above 1, got '1\.5'"),
        ({"seeds": (1, -1)}, r"report\.seeds must lie in 0\.\.2\^31-1"),
    ],
)
def test_sections_that_cannot_be_drawn(words: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Report(**{"samples": 20, "steps": 10, "batch": 10, "weak_first": (0, 4), **words})


# ---------------------------------------------------------------- Words


def row(order: str, schedule: str, flops: float, score: float, **more: Any) -> dict[str, Any]:
    return {
        "order": order,
        "schedule": schedule,
        "guide": None,
        "flops_percent": flops,
        "flops_percent_guided": flops / (1 if more.get("guidance", 1) == 1 else 2),
        "seconds": flops / 10,
        "seconds_percent": flops,
        "fd": score,
        "accuracy": 0.95,
        "guidance": 1.0,
        "solver": "ddpm",
        "packing": None,
        "nearest": 2.5,
        **more,
    }


@pytest.fixture
def report() -> dict[str, Any]:
    """The sketch's table: weak-first wins at 56 %, fewer steps at 27 %."""
    return {
        "floor_fd": 0.4,
        "heldout_fd": {"fd": 2.31, "samples": 297},
        "heldout_nearest": 2.2,
        "classifier_accuracy": 0.967,
        "samples": 1500,
        "seconds_are": "median of 5 warm batches",
        "versions": {"jax": "0.10.2"},
        "points": [
            row("weak_first", "2:50", 100.0, 0.80),
            row("weak_first", "4:30,2:20", 56.2, 0.84),
            row("weak_first", "4:50", 27.0, 2.40),
            row("weak_last", "2:20,4:30", 56.2, 2.49),
            row("fewer_steps", "2:28", 56.0, 1.05),
            row("fewer_steps", "2:13", 26.0, 1.45),
            row("weak_first", "2:50", 127.0, 0.70, guide="4:50", guidance=1.5),
        ],
    }


def test_findings_speak_for_and_against(report: dict[str, Any]) -> None:
    wins, loses = findings(report)
    assert wins.startswith("- At 56 % of the FLOPs weak-first scores FD 0.84, 1.05x of the full run")
    assert "the same steps weak-last 2.49" in wins
    assert "fewer powerful steps 1.05" in wins
    assert wins.endswith("weak-first is better.")
    assert loses.startswith("- At 27 % of the FLOPs weak-first scores FD 2.40, 3.00x of the full run")
    assert "weak-last" not in loses
    assert "fewer powerful steps 1.44" in loses  # between 1.45 at 26 % and 1.05 at 56 %
    assert loses.endswith("simply taking fewer steps is better.")


def test_findings_follow_the_numbers(report: dict[str, Any]) -> None:
    for point in report["points"]:
        if point["order"] == "fewer_steps":
            point["fd"] = 0.81
    assert [line.endswith("simply taking fewer steps is better.") for line in findings(report)] == [True, True]


def test_a_difference_to_the_full_run_is_paired(report: dict[str, Any]) -> None:
    """The errors of both are .03; of their difference, which has the noise of neither, .01."""
    old = [dict(point) for point in report["points"]]
    for point, less in zip(report["points"], (0, 0.015, 1.6)):
        point |= {"fd_error": 0.03, "against_full": {"fd": less, "error": 0.01}}
    close, far = findings(report)
    assert close.startswith(
        "- At 56 % of the FLOPs weak-first scores FD 0.840 +- 0.030, 1.05x of the full run, a difference of"
        " +0.015 +- 0.020 (a tie);"
    )
    assert "3.00x of the full run, a difference of +1.600 +- 0.020; fewer" in far
    text = markdown(report)
    assert (
        "| 0.840 +- 0.030 | 0.950 |" in text
        and "- +-: in the table one standard error" in text
        and "- +-:" not in markdown({**report, "points": old})
    )
    figure = quality_vs_compute(report)
    assert figure.get_suptitle().endswith("1,500 samples a point, +- 2 standard errors")
    bars = figure.axes[0].collections[0].get_segments()
    np.testing.assert_allclose(bars[1], [[56.2, 0.78], [56.2, 0.90]])


def test_what_a_point_scores_more_is_measured_seed_by_seed() -> None:
    rng = np.random.default_rng(0)
    noise, own = rng.normal(size=(2, 400)), 0.1 * rng.normal(size=(2, 400))
    full = [Score(mean_of(seed), HALF, 1.0) for seed in noise]
    point = [Score(mean_of(seed + other + 0.2), HALF, 1.0) for seed, other in zip(noise, own)]
    found = _against(point, full)
    assert found["fd"] == pytest.approx(0.2, abs=0.02)
    assert found["error"] == pytest.approx(np.hypot(*own.std(1)) / 20 / 2)
    assert _against(point[:1], full)["error"] == pytest.approx(own[0].std() / 20)


def test_words_of_captions_are_compared_seed_by_seed() -> None:
    """Of two seeds; of labels nothing is said but of their distance."""
    rng = np.random.default_rng(0)
    right, unseen = rng.uniform(size=(2, 2, 400)) < 0.8, rng.uniform(size=(2, 2, 40)) < 0.6
    distance = mean_of(np.ones(440))
    full, point = (
        [Score(distance, mean_of(right[i, seed]), 1.0, mean_of(unseen[i, seed])) for seed in (0, 1)] for i in (0, 1)
    )
    found, less = _against(point, full), right[1].astype(float) - right[0]
    assert found["accuracy"] == pytest.approx(less.mean())
    assert found["accuracy_error"] == pytest.approx(np.hypot(*less.std(1)) / 20 / 2)
    assert found["accuracy_unseen"] == pytest.approx(unseen[1].mean() - unseen[0].mean())
    assert _of_captions(point) == pytest.approx(
        {
            "accuracy_error": np.hypot(*right[1].std(1)) / 20 / 2,
            "accuracy_unseen": unseen[1].mean(),
            "accuracy_unseen_error": np.hypot(*unseen[1].std(1)) / 40**0.5 / 2,
        }
    )
    labels = [Score(distance, mean_of(right[0, 0]), 1.0)]
    assert _of_captions(labels) == {} and {*_against(labels, labels)} == {"fd", "error"}


def test_findings_without_the_alternatives(report: dict[str, Any]) -> None:
    report["points"] = report["points"][:3]
    for line in findings(report):
        assert "better" not in line
        assert "weak-last" not in line


def with_seeds(report: dict[str, Any], off: float) -> dict[str, Any]:
    """Three seeds around each score."""
    points = [{**row, "fd_by_seed": [row["fd"] - off, row["fd"], row["fd"] + off]} for row in report["points"]]
    return {**report, "points": points}


def test_findings_claim_nothing_that_seeds_make_too(report: dict[str, Any]) -> None:
    """0.84 against 0.80 of the full run and 1.05 of fewer steps, where seeds range over 0.06 and over 0.3."""
    close, _ = findings(with_seeds(report, 0.03))
    assert close.startswith(
        "- At 56 % of the FLOPs weak-first scores FD 0.84 (0.81 to 0.87), 1.05x of the full run, which is no more than"
        " seeds make; the same steps weak-last 2.49 (2.46 to 2.52); fewer powerful steps 1.05"
    )
    assert close.endswith("(interpolated): weak-first is better.")
    far, still = findings(with_seeds(report, 0.15))
    assert far.endswith("(interpolated): the difference is no more than seeds make.")
    assert "3.00x of the full run;" in still and still.endswith("simply taking fewer steps is better.")
    tight, _ = findings(with_seeds(report, 0.015))
    assert "1.05x of the full run; the same" in tight
    text = markdown(with_seeds(report, 0.03))
    assert "| 0.84 (0.81 to 0.87) | 0.950 |" in text and "- Means of 3 seeds, each the same noise for all rows" in text
    assert "`--config.report.seeds=0,1,2` measures it" in markdown(report)
    figure = quality_vs_compute(with_seeds(report, 0.03))
    assert figure.get_suptitle().endswith("1,500 samples a point, mean and range of 3 seeds, hollow one seed")
    bars = [collection.get_segments() for collection in figure.axes[0].collections]
    assert [len(segments) for segments in bars] == [3, 2, 3]
    np.testing.assert_allclose(bars[0][1], [[56.2, 0.81], [56.2, 0.87]])


def test_markdown_shows_every_row_and_both_pictures(report: dict[str, Any]) -> None:
    text = markdown(report)
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(table) == 1 + len(report["points"])
    assert {line.count("|") for line in table} == {13}
    assert "| weak first | ddpm | 4:30,2:20 |  | 1 | 56.2 | 56.2 | 56.2 | 5.6 | 0.84 | 0.950 | 2.50 |" in table
    assert "| guided | ddpm | 2:50 | 4:50 | 1.5 | 127.0 | 63.5 |" in table[-1]
    assert "| FLOPs: % of powerful unguided | % of powerful with the same guidance |" in table[0]
    assert "![" in text
    assert "(quality_vs_compute.png)" in text
    assert "(samples.png)" in text
    assert "297 held-out images score 2.31" in text
    assert "96.7 % right" in text
    for line in findings(report):
        assert line in text
    del report["points"][-1]["flops_percent_guided"]  # as it was recorded once
    assert "| 4:50 | 1.5 | 127.0 |  | 127.0 |" in markdown(report)


# ---------------------------------------------------------------- Pictures


def test_quality_vs_compute_draws_three_lines_and_the_floor(report: dict[str, Any], tmp_path: Path) -> None:
    figure = quality_vs_compute(report)
    quality, accuracy = figure.axes
    lines = {line.get_label(): line for line in quality.lines}
    by_label = {name: (list(line.get_xdata()), list(line.get_ydata())) for name, line in lines.items()}
    assert by_label["weak steps first (FlexiDiT)"] == ([27.0, 56.2, 100.0], [2.40, 0.84, 0.80])
    assert by_label["weak steps last"] == ([56.2, 100.0], [2.49, 0.80])
    assert by_label["simply fewer steps"] == ([26.0, 56.0, 100.0], [1.45, 1.05, 0.80])
    floor = next(line for name, line in lines.items() if "floor" in name)
    assert set(floor.get_ydata()) == {0.4}
    guided = "ddpm, 50 steps, guidance 1.5, guide 4:50"
    assert by_label[guided] == ([127.0], [0.70])
    assert [line.get_label() for line in accuracy.lines][3:] == [guided]
    assert quality.get_xlim()[1] > 127
    low, high = accuracy.get_ylim()
    assert low < 0.95 < high
    figure.savefig(tmp_path / "quality.png")
    with Image.open(tmp_path / "quality.png") as image:
        image.load()
        assert min(image.size) > 100


def test_other_solvers_and_guidance_are_drawn_once_each(report: dict[str, Any]) -> None:
    more = [
        row("weak_first", "4:12,2:8", 22.6, 0.80, solver={"name": "sa_solver", "tau": 0.5}, accuracy=0.7),
        row("weak_first", "2:20", 40.0, 0.85, solver={"name": "sa_solver", "tau": 0.5}),
        row("weak_first", "2:50", 127.0, 0.70, guide="4:50", guidance=1.5, packing="packed"),
    ]
    figure = quality_vs_compute({**report, "points": report["points"] + more})
    quality, accuracy = figure.axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in quality.lines}
    assert drawn["sa_solver, 20 steps"] == [0.80, 0.85]
    assert [label for label in drawn if "guidance" in label] == ["ddpm, 50 steps, guidance 1.5, guide 4:50"]
    assert accuracy.get_ylim()[0] < 0.7
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == [*drawn]


def inside(figure: Figure) -> bool:
    """Whether the title is whole."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    title, whole = figure._suptitle.get_window_extent(renderer), figure.bbox
    return whole.x0 <= title.x0 and title.x1 <= whole.x1 and title.y1 <= whole.y1


@pytest.mark.parametrize("classes", [1, 2, 3, 10])
def test_the_title_of_a_sample_grid_is_whole(classes: int) -> None:
    rows = [(f"{share} %", np.zeros((12, 8, 8, 1), np.uint8)) for share in (100, 56)]
    figure = sample_grid(rows, [*map(str, range(classes))])
    assert inside(figure)
    assert " ".join(figure.get_suptitle().split()) == (
        "rows: share of the FLOPs; columns: class; the same starting noise in every column"
    )
    figure.suptitle("rows: share of the FLOPs; columns: class; the same starting noise in every column", fontsize=9)
    assert inside(figure) == (classes == 10)


@pytest.mark.parametrize("channels", [1, 3])
def test_sample_grid_shows_rows_by_columns(tmp_path: Path, channels: int) -> None:
    rng = np.random.default_rng(0)
    rows = [(f"{share} %", rng.integers(0, 256, (12, 8, 8, channels), dtype=np.uint8)) for share in (100, 56, 27)]
    figure = sample_grid(rows, [*map(str, range(10))])
    assert len(figure.axes) == 30
    for i, axis in enumerate(figure.axes):
        shown = np.asarray(axis.images[0].get_array()).reshape(8, 8, channels)
        np.testing.assert_array_equal(shown, rows[i // 10][1][i % 10])
    assert [axis.get_ylabel() for axis in figure.axes[::10]] == ["100 %", "56 %", "27 %"]
    figure.savefig(tmp_path / "grid.png")
    with Image.open(tmp_path / "grid.png") as image:
        image.load()
        assert min(image.size) > 100


def test_sample_grid_shows_images_of_several_sizes() -> None:
    images = [np.zeros((8, 16, 1), np.uint8), np.full((16, 8, 1), 255, np.uint8)] * 2
    captions = ["a bold three left of a faint seven", "a faint two above a bold five"]
    figure = sample_grid([("100 %", images), ("56 %", images)], captions, "caption")
    assert [axis.images[0].get_array().shape for axis in figure.axes] == [(8, 16), (16, 8)] * 2
    assert [" ".join(axis.get_title().split()) for axis in figure.axes[:2]] == captions
    figure.draw_without_rendering()
    wide, high = (axis.get_position().width for axis in figure.axes[:2])
    assert wide == pytest.approx(2 * high, rel=0.1)
    assert "columns: caption;" in " ".join(figure.get_suptitle().split()) and inside(figure)
