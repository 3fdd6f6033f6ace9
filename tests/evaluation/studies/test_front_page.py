"""The front over guidance, from made-up numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flexidit_jax.evaluation.studies.front_page import front, front_lines, guidance_front
from flexidit_jax.evaluation.studies.quality_page import markdown, others, quality_vs_compute


def row(schedule: str, share: float, scale: float, fd: float, accuracy: float, **more: Any) -> dict[str, Any]:
    return {
        "order": "weak_first",
        "schedule": schedule,
        "guide": None,
        "guidance": scale,
        "flops_percent": share * (1 if scale == 1 else 2),
        "flops_percent_guided": share,
        "seconds": 1.0,
        "seconds_percent": 100.0,
        "fd": fd,
        "fd_error": 0.05,
        "against_full": {
            "fd": fd - 2,
            "error": 0.02,
            "accuracy": accuracy - 0.8,
            "accuracy_error": 0.015,
            "accuracy_unseen": -0.05,
            "accuracy_unseen_error": 0.02,
        },
        "accuracy": accuracy,
        "accuracy_error": 0.012,
        "accuracy_unseen": accuracy - 0.1,
        "accuracy_unseen_error": 0.04,
        "solver": "ddpm",
        "packing": None,
        "nearest": 2.0,
        **more,
    }


@pytest.fixture
def report() -> dict[str, Any]:
    return {
        "floor_fd": 0.4,
        "heldout_fd": {"fd": 2.31, "samples": 800},
        "heldout_nearest": 2.2,
        "classifier_accuracy": 0.967,
        "samples": 800,
        "captions": {"count": 800, "unseen": 80, "parts": 2},
        "seconds_are": "median of 5 warm batches",
        "versions": {"jax": "0.10.2"},
        "points": [
            row("2:50", 100.0, 1.0, 2.0, 0.80),
            row("4:30,2:20", 56.2, 1.0, 2.1, 0.78),
            row("4:50", 27.0, 1.0, 4.0, 0.70),
            row("2:20,4:30", 56.2, 1.0, 5.0, 0.70, order="weak_last"),
            row("2:50", 100.0, 3.0, 4.0, 0.99),
            row("4:30,2:20", 56.2, 3.0, 4.1, 0.98),
            row("2:50", 100.0, 1.5, 2.5, 0.97),
            row("4:30,2:20", 56.2, 1.5, 2.6, 0.96),
            row("2:50", 127.0, 1.5, 1.9, 0.97, guide="4:50"),
            row("2:20", 40.0, 1.0, 1.7, 0.81, solver="dpmpp_2m"),
        ],
    }


def test_a_front_is_a_budget_over_its_scales(report: dict[str, Any]) -> None:
    """Rows with another guide, solver or order are none of it, nor is a budget with one scale."""
    found = front(report["points"])
    assert [*found] == ["2:50", "4:30,2:20"]
    assert [(one["guidance"], one["fd"]) for one in found["2:50"]] == [(1.0, 2.0), (1.5, 2.5), (3.0, 4.0)]
    assert [one["fd"] for one in found["4:30,2:20"]] == [2.1, 2.6, 4.1]
    assert front([one for one in report["points"] if one["guidance"] == 1 or one["guide"]]) == {}


def test_the_page_has_its_table(report: dict[str, Any]) -> None:
    lines = front_lines(report)
    assert lines[4] == "| schedule | FLOPs | guidance 1 | guidance 1.5 | guidance 3 |"
    assert lines[6:8] == [
        "| 2:50 | 100 % | 2.00 / 0.800 | 2.50 / 0.970 | 4.00 / 0.990 |",
        "| 4:30,2:20 | 56 % | 2.10 / 0.780 | 2.60 / 0.960 | 4.10 / 0.980 |",
    ]
    text = markdown(report)
    assert "\n".join(lines) in text and "(guidance_front.png)" in text
    plain = {**report, "points": report["points"][:4]}
    assert front_lines(plain) == [] and "guidance_front" not in markdown(plain)


def test_the_picture_has_a_line_a_budget(report: dict[str, Any]) -> None:
    [panel] = guidance_front(report).axes
    lines = {line.get_label(): line for line in panel.lines if not line.get_label().startswith("_")}
    assert [*lines] == ["100 %", "56 %"]
    assert lines["56 %"].get_xdata().tolist() == [0.78, 0.96, 0.98]
    assert lines["56 %"].get_ydata().tolist() == [2.1, 2.6, 4.1]
    assert [text.get_text() for text in panel.texts] == ["1", "1.5", "3"]
    assert [tuple(text.xy) for text in panel.texts] == [(0.8, 2.0), (0.97, 2.5), (0.99, 4.0)]
    bars = panel.collections[1].get_segments()
    np.testing.assert_allclose(bars[0], [[0.78, 2.0], [0.78, 2.2]])
    assert panel.get_xlabel() == "all words of the caption found by the classifier"
    del report["captions"]
    assert guidance_front(report).axes[0].get_xlabel() == "label found by the classifier"


def test_quality_against_compute_leaves_the_front_out(report: dict[str, Any]) -> None:
    assert [*others(report["points"])] == ["ddpm, 50 steps, guidance 1.5, guide 4:50", "dpmpp_2m, 20 steps"]
    report["points"][4]["accuracy"] = 0.1  # of the front, which moves no axis of the other picture
    assert quality_vs_compute(report).axes[1].get_ylim()[0] == pytest.approx(0.68)


def test_the_page_of_captions_says_which_words_are_right(report: dict[str, Any]) -> None:
    text = markdown(report)
    table = [line for line in text.splitlines() if line.startswith("| weak")]
    assert table[1].endswith("| 2.100 +- 0.050 | 0.780 | 0.680 | 2.00 |")
    assert "| FD | accuracy | of captions never trained on | nearest |" in text
    assert {line.count("|") for line in text.split("\n\n")[1].splitlines()} == {14}
    assert (
        "All words are right 0.780 +- 0.012 of the time, a difference of -0.020 +- 0.030 (a tie); of captions never"
        " trained on 0.680 +- 0.040 of the time, a difference of -0.050 +- 0.040."
    ) in text
    assert (
        "- accuracy: how often the classifier finds all words of a caption in the 2 parts of its picture; of 720"
        " captions that are trained on, and of 80 that never are."
    ) in text
    assert "fitted on parts of the training images (96.7 % right on held-out parts; those of all parts of" in text
    assert "nearest training image part by part; held-out images: 2.20." in text
    figure = quality_vs_compute(report)
    assert figure.axes[1].get_ylabel() == "all words of the caption found by the classifier"
