"""Metrics as they are asked for by name: of features of images, with errors and floors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics.estimate import Estimate, difference
from flexidit_jax.metrics.frechet import bias, frechet_distance
from flexidit_jax.metrics.moments import BLOCK, Moments
from flexidit_jax.metrics.score import Images, Score, gaussian_of, metric_of

Oracle = Mapping[str, np.ndarray]
PACKAGE = "flexidit_jax.metrics"
NAMES = {
    "frechet": ["fid", "sfid"],
    "inception_score": ["is"],
    "precision_recall": ["precision", "recall"],
    "density_coverage": ["density", "coverage"],
    "kid": ["kid"],
    "cmmd": ["cmmd"],
    "clip_score": ["clip_score"],
    "diversity": ["diversity"],
}


def metric(name: str, **words: Any) -> Any:
    return metric_of({"name": name, **words}, "evaluate.metrics")


@pytest.fixture
def sets(oracle: Oracle) -> tuple[Images, Images]:
    """The samples, with features of every kind, and the reference."""
    sample, reference = oracle["sample"], oracle["reference"]
    kinds = {"pool": sample, "spatial": sample[:, :20], "logits": oracle["logits"], "prompts": sample[::-1]}
    return Images(kinds, labels=np.arange(500) % 5), Images({"pool": reference, "spatial": reference[:, :20]})


def values(name: str, sets: tuple[Images, Images], features: str = "inception", **words: Any) -> dict[str, Score]:
    return {score.metric: score for score in metric(name, **words).scores(*sets, features)}


def test_every_metric_is_found_by_name(sets: tuple[Images, Images]) -> None:
    assert {*NAMES} == {*build.names(PACKAGE, "Metric")}
    for name, scores in NAMES.items():
        one = metric(name)
        assert list(values(name, sets)) == scores
        assert {*scores} <= {*one.numbers}
        assert {metric(number) for number in one.numbers} == {one}
        assert {*one.reads} <= {*sets[0].features} and {*one.compares} <= {*sets[1].features}
        one.check(500, 400)
        one.check(500, None)


def test_numbers_are_those_of_other_evaluators(oracle: Oracle, sets: tuple[Images, Images]) -> None:
    for name, words, expected in [
        ("frechet", {}, {"fid": oracle["fid"]}),
        ("inception_score", {"chunk": 100}, {"is": oracle["is_chunks100"]}),
        ("inception_score", {"chunk": None}, {"is": oracle["is_fidelity_mean"]}),
        ("precision_recall", {}, {"precision": oracle["precision"], "recall": oracle["recall"]}),
        ("precision_recall", {"k": 5}, dict(zip(("precision", "recall"), oracle["prdc_k5"]))),
        ("density_coverage", {}, dict(zip(("density", "coverage"), oracle["prdc_k5"][2:]))),
        ("kid", {}, {"kid": oracle["kid_all"]}),
        ("kid", {"subsets": 10, "size": 100}, {"kid": oracle["kid_mean"]}),
        ("cmmd", {}, {"cmmd": oracle["cmmd"]}),
    ]:
        found = values(name, sets, **words)
        assert {key: found[key].value for key in expected} == pytest.approx(
            {key: float(one) for key, one in expected.items()}, rel=1e-6
        )
        for score in found.values():
            assert score.estimate is None or score.error == score.estimate.error > 0


def test_a_distance_has_its_floor_and_the_name_of_its_features(oracle: Oracle, sets: tuple[Images, Images]) -> None:
    found = values("frechet", sets)
    assert found["fid"].floor == bias(Moments.of(oracle["reference"]).gaussian, 500, 400)  # of a sampled reference too
    assert list(values("frechet", sets, "dinov2")) == ["fd", "sfd"]
    assert list(values("frechet", (sets[0], Images({"pool": oracle["reference"]})))) == ["fid"]


def test_statistics_stand_for_images_that_are_not_there(oracle: Oracle, sets: tuple[Images, Images]) -> None:
    fitted = {"pool": Moments.of(oracle["reference"]).gaussian}
    few = {"pool": oracle["reference"][:9]}  # images beside statistics are for precision and recall alone
    for reference in (Images(fitted=fitted), Images(few, fitted)):
        assert values("frechet", (sets[0], reference))["fid"].value == pytest.approx(oracle["fid"], rel=1e-9)
    own = Images(few, {"pool": Moments.of(oracle["sample"]).gaussian})
    found = values("frechet", (own, sets[1]))["fid"]
    assert (found.value, found.error) == (pytest.approx(oracle["fid"], rel=1e-9), None)
    unknown = Images(fitted={"pool": replace(own.fitted["pool"], count=None)})
    assert values("frechet", (unknown, sets[1]))["fid"].floor is None
    itself = Images(fitted=fitted)
    assert values("frechet", (itself, itself))["fid"].value == pytest.approx(0, abs=1e-9)


def test_infinity_is_asked_for(oracle: Oracle, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    samples, reference = rng.normal(size=(10_000, 3)), Moments.of(rng.normal(size=(10_000, 3))).gaussian
    found = values("frechet", (Images({"pool": samples}), Images(fitted={"pool": reference})), infinity=True)
    assert list(found) == ["fid", "fid_infinity"]
    whole = frechet_distance(gaussian_of(samples), reference)
    assert found["fid"].value == pytest.approx(whole, rel=1e-9)
    assert found["fid_infinity"].value == pytest.approx(whole, abs=found["fid"].error * 4)
    assert found["fid_infinity"].error > 0 and found["fid_infinity"].estimate is None


def test_fewer_samples_than_features_are_said(
    oracle: Oracle, sets: tuple[Images, Images], capsys: pytest.CaptureFixture[str]
) -> None:
    values("frechet", (Images({"pool": oracle["sample"][:40]}), sets[1]))
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("note: 40 samples are too few for a Frechet distance of 64 features: ")
    values("frechet", sets)
    assert capsys.readouterr().err == ""


def test_paired_scores_have_a_difference(oracle: Oracle, sets: tuple[Images, Images]) -> None:
    other = Images({**sets[0].features, "pool": oracle["sample"] * np.float32(1.01)})
    for name in ("frechet", "kid", "cmmd"):
        ours, theirs = (next(iter(values(name, (samples, sets[1])).values())) for samples in (sets[0], other))
        apart = difference(ours.estimate, theirs.estimate)
        assert apart.value == ours.value - theirs.value
        assert apart.error < 0.3 * ours.error


@pytest.mark.parametrize(
    ("name", "words", "samples", "reference", "said"),
    [
        ("frechet", {}, 1, None, "a Frechet distance needs two images or more of each set, and there are 1"),
        (
            "frechet",
            {"infinity": True},
            9000,
            None,
            "FID-infinity draws a line through subsets of 5,000 to all samples, and 9,000 are too few; 10,000 would do",
        ),
        ("precision_recall", {}, 3, None, "3 images are too few for balls that reach to neighbour 3; 4 would do"),
        ("precision_recall", {}, 9, 2, "2 images are too few for balls that reach to neighbour 3; 4 would do"),
        ("density_coverage", {}, 9, 5, "5 images are too few for balls that reach to neighbour 5; 6 would do"),
        ("kid", {"subsets": 10}, 500, 2000, "KID takes 1,000 images or more of each set, and there are 500"),
        ("kid", {}, 500, 1, "KID takes 2 images or more of each set, and there are 1"),
        (
            "inception_score",
            {"chunk": None},
            9,
            None,
            "an Inception score over 10 parts needs at least 10 samples, got 9",
        ),
        ("precision_recall", {"k": 0}, 9, 9, "balls reach to neighbour 1 or a later one, got 0"),
    ],
)
def test_too_few_images_are_refused_before_features_are_taken(
    name: str, words: dict[str, Any], samples: int, reference: int | None, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        metric(name, **words).check(samples, reference)
    assert str(caught.value) == said


@pytest.mark.parametrize(
    ("name", "words", "said"),
    [
        ("kid", {"subsets": 0}, "kid.subsets must be positive, got 0"),
        ("inception_score", {"chunk": 0}, "inception_score.chunk must be positive, got 0"),
        ("precision_recall", {"distance": "bf16"}, "distance must be float32, float64 or float16, got 'bf16'"),
        ("density_coverage", {"distance": "bf16"}, "distance must be float32, float64 or float16, got 'bf16'"),
        ("fidd", {}, "no metric 'fidd'; did you mean 'fid'?"),
        ("kid", {"subset": 3}, "unknown config key 'evaluate.metrics.subset'; did you mean 'subsets'?"),
    ],
)
def test_words_that_are_refused(name: str, words: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        metric(name, **words)
    assert str(caught.value) == said


def test_what_there_is_not_is_named(sets: tuple[Images, Images]) -> None:
    samples = Images({"pool": sets[0].features["pool"]})
    with pytest.raises(UserError) as caught:
        values("inception_score", (samples, sets[1]))
    assert str(caught.value) == "there are no features 'logits' of these images; there are pool"
    with pytest.raises(UserError) as caught:
        values("kid", (samples, Images()))
    assert str(caught.value) == "there are no features 'pool' of these images; there are none"
    with pytest.raises(UserError) as caught:
        values("diversity", (samples, sets[1]))
    assert str(caught.value) == "diversity needs the class of every sample, which arr_1 of a .npz file may hold"


def test_a_score_in_words() -> None:
    score = Score("fid", 2.2714, 0.031, 0.1215)
    assert str(score) == "fid 2.271 +- 0.031 (floor 0.121)"
    assert score.record() == {"value": 2.2714, "error": 0.031, "floor": 0.1215, "how": ""}
    assert str(Score("precision", 0.8265, how="k=3")) == "precision 0.8265, k=3"
    assert str(Score("is", 215.837)) == "is 215.8"
    estimate = Estimate(2.0, np.array([1.0, -1.0] * 50))
    assert Score.of("fid", estimate) == Score("fid", 2.0, 0.1) and Score.of("fid", estimate).estimate is estimate


def test_a_gaussian_of_some_rows() -> None:
    features = np.random.default_rng(0).normal(size=(2 * BLOCK + 5, 3))
    numbers = np.arange(7, 2 * BLOCK + 5, 2)
    for found, expected in [
        (gaussian_of(features), Moments.of(features)),
        (gaussian_of(features, numbers), Moments.of(features[numbers])),
    ]:
        assert found.count == expected.count
        np.testing.assert_allclose(found.covariance, expected.covariance, rtol=1e-9)
