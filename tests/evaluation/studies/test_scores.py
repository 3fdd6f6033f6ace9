"""What an `evaluate` section without a model asks for, and the page of what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.evaluation.studies.scores import Scores
from flexidit_jax.evaluation.studies.scores_page import markdown, picture
from flexidit_jax.metrics.protocol import Drawn, Protocol


def metrics(section: Scores) -> dict[str, list[str]]:
    return {
        one["name"]: [type(metric).__module__.rpartition(".")[2] for metric in section.metrics_of(one["name"])]
        for one in section.sections
    }


def test_what_is_measured() -> None:
    assert metrics(Scores()) == {"inception": ["inception_score", "frechet", "precision_recall"]}
    assert metrics(Scores(features={"name": "dinov2"})) == {"dinov2": ["frechet"]}
    assert metrics(Scores(metrics="fid, sfid,coverage")) == {"inception": ["frechet", "density_coverage"]}
    coco = {"inception": ["frechet"], "clip": ["clip_score"]}
    assert metrics(Scores(protocol="coco10k", prompts="captions.txt")) == coco
    assert metrics(Scores(protocol="coco10k", metrics="fid")) == {"inception": ["frechet"]}
    both = Scores(protocol="adm-imagenet512", features={"name": "dinov2"})
    assert metrics(both) == {"dinov2": ["frechet"], "inception": ["inception_score", "frechet", "precision_recall"]}


def test_the_crop_of_a_protocol_unless_another_is_asked_for() -> None:
    coco = {"protocol": "coco10k", "prompts": "captions.txt"}
    assert Scores(**coco).cut == {"crop": "square", "side": 256}
    assert Scores(**coco, crop="adm", side=128).cut == {"crop": "adm", "side": 128}
    assert Scores(protocol="adm-imagenet256").cut == {"crop": None, "side": None}


def test_names(tmp_path: Path) -> None:
    (tmp_path / "a,b").mkdir()
    assert Scores(samples=f"{tmp_path}/a,b").names == [f"{tmp_path}/a,b"]
    assert Scores(samples="a, b").names == Scores(samples=["a", "b"]).names == ["a", "b"]
    for bad in (3, [], ["a", 3], "a,"):
        with pytest.raises(UserError) as caught:
            assert Scores(samples=bad).names
        assert str(caught.value) == f"--samples names images, a folder of PNG files or a .npz file; got {bad!r}"


def test_sets_that_are_compared_are_different_ones(tmp_path: Path) -> None:
    (tmp_path / "ok").mkdir()
    (tmp_path / "ok" / "samples.npz").touch()
    (tmp_path / "link").symlink_to(tmp_path / "ok")
    ok, same = f"{tmp_path}/ok", ("ok/", "./ok", "link", "ok/samples.npz")
    for first, then in [("s.npz", "./s.npz"), *((ok, f"{tmp_path}/{name}") for name in same)]:
        with pytest.raises(UserError) as caught:
            assert Scores(samples=f"{first},{then}").names
        assert str(caught.value) == (
            f"--samples names {first} and {then}, which are the same; sets that are compared are different ones"
        )


@pytest.mark.parametrize("metrics", [[], (), 3])
def test_there_are_metrics(metrics: Any) -> None:
    with pytest.raises(UserError) as caught:
        Scores(metrics=metrics)
    assert str(caught.value) == f"evaluate.metrics must be names or sections, and at least one, got {metrics!r}"


def test_a_metric_in_two_ways_takes_two_runs() -> None:
    twice = [{"name": "precision_recall", "k": 3}, {"name": "recall", "k": 5}]
    with pytest.raises(UserError) as caught:
        Scores(metrics=twice)
    assert str(caught.value) == "evaluate.metrics asks for precision in two ways; each takes a run of its own"
    assert metrics(Scores(metrics=[twice[0], {"name": "recall", "k": 3}])) == {"inception": ["precision_recall"]}


@pytest.mark.parametrize("reference", ["", " ", 3])
def test_a_reference_has_a_name(reference: Any) -> None:
    with pytest.raises(UserError) as caught:
        Scores(reference=reference)
    assert str(caught.value) == (
        f"--reference names statistics or images, a file or a folder of them; got {reference!r}"
    )


@pytest.mark.parametrize("features", [3, "inception", [], ["inception"]])
def test_features_are_sections(features: Any) -> None:
    with pytest.raises(UserError) as caught:
        Scores(features=features)
    assert str(caught.value) == f"evaluate.features must be a section or a list of sections, got {features!r}"


def test_an_extractor_takes_a_run_of_its_own() -> None:
    with pytest.raises(UserError) as caught:
        Scores(features=[{"name": "inception"}, {"name": "inception", "convention": "clean"}])
    assert str(caught.value) == "evaluate.features names inception twice; each takes a run of its own"


def row(samples: str, features: str, **scores: tuple[float, float | None]) -> dict[str, Any]:
    said = {
        metric: {"value": value, "error": 0.1, "floor": floor, "how": "k=3"}
        for metric, (value, floor) in scores.items()
    }
    protocol = Protocol(features=features, samples=3, drawn=Drawn(seed=0, steps=len(samples))).record()
    return {"samples": samples, "features": features, "scores": said, "protocol": protocol, "remarks": ["a JPEG"]}


def test_a_page_of_two_extractors() -> None:
    rows = [
        row("a", "inception", fid=(2.0, 0.5), kid=(1.0, None)),
        row("bb", "inception", fid=(3.0, 0.5), kid=(1.5, None)),
    ]
    rows += [row(name, "dinov2", fd=(20.0, None), sfd=(2.0, 1.0)) for name in ("a", "bb")]
    apart = {
        "samples": "bb",
        "less": "a",
        "features": "dinov2",
        "metric": "fd",
        "value": 10,
        "error": 1,
        "paired": False,
    }
    rows[1]["scores"]["kid"]["how"] = "k=4"
    result = {"rows": rows, "differences": [apart]}
    page = markdown(result)
    assert "| a | 2.00 +- 0.10 (floor 0.5) | 1.00 +- 0.10 |\n| bb | 3.00" in page
    assert (
        page.index("| samples | fid | kid |")
        < page.index("- fid: k=3\n- kid of a: k=3\n- kid of bb: k=4\n")
        < page.index("| samples | fd | sfd |")
    )
    assert "- fd, sfd: k=3\n" in page
    assert "- fd of bb less that of a: +10.00 +- 2.00, as drawn apart" in page
    assert page.count("bb differs from a: steps is 2 here, is 1 there; a JPEG") == 2
    assert page.count("features: inception\nsamples: 3 images\ndrawn: seed 0, steps 1\na JPEG\n```") == 1
    assert "another protocol" not in page
    panels = [axes for axes in picture(result).axes if axes.get_visible()]
    titles = ["fid (inception)", "kid (inception)", "fd (dinov2)", "sfd (dinov2)"]
    assert [axes.get_title() for axes in panels] == titles
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["a", "bb"]
