"""Inception score against two evaluators; its error against draws."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics import inception_score as module
from flexidit_jax.metrics.inception_score import consecutive, inception_score, shuffled
from flexidit_jax.metrics.score import Images

Oracle = Mapping[str, np.ndarray]


@pytest.mark.parametrize("tile", [5000, 17])
@pytest.mark.parametrize("size", [100, 150])  # 150: a shorter last part
def test_adms_parts(oracle: Oracle, monkeypatch: pytest.MonkeyPatch, tile: int, size: int) -> None:
    monkeypatch.setattr(module, "TILE", tile)
    found, deviation = inception_score(oracle["logits"], consecutive(500, size))
    assert found.value == pytest.approx(oracle[f"is_chunks{size}"], rel=1e-9)
    if size == 100:
        assert deviation == pytest.approx(oracle["is_chunks100_std"], rel=1e-9)


def test_torch_fidelitys_parts(oracle: Oracle) -> None:
    found, deviation = inception_score(oracle["logits"], shuffled(500))
    assert found.value == pytest.approx(oracle["is_fidelity_mean"], rel=1e-9)
    assert deviation == pytest.approx(oracle["is_fidelity_std"], rel=1e-9)


def test_parts_hold_every_sample_once() -> None:
    assert [len(part) for part in consecutive(12, 5)] == [5, 5, 2]
    parts = shuffled(103)
    assert sorted(np.concatenate(parts)) == list(range(103)) and {len(part) for part in parts} == {10, 11}
    assert len(consecutive(50_000)) == 10


def test_extremes() -> None:
    certain = np.full((40, 10), -2000.0)
    certain[np.arange(40), np.arange(40) % 10] = 0  # probabilities of exactly 0
    assert inception_score(certain, consecutive(40, 40))[0].value == pytest.approx(10)
    assert inception_score(np.zeros((40, 10)), consecutive(40, 40))[0].value == pytest.approx(1)
    certain[:, 3] = -2000  # a class that nobody has
    certain[3::10, 4] = 0
    assert inception_score(certain, consecutive(40, 40))[0].value == pytest.approx(
        np.exp(-0.8 * np.log(0.1) - 0.2 * np.log(0.2))
    )
    assert inception_score(certain + 5e4, consecutive(40, 40))[0].value > 8


@pytest.mark.parametrize("parts", [consecutive(400, 400), shuffled(400, 4), consecutive(400, 320)])
def test_the_standard_error_is_the_spread_of_draws(parts: list[np.ndarray]) -> None:
    rng = np.random.default_rng(0)
    centres = 2 * rng.normal(size=(6, 8))
    draws = [centres[rng.integers(0, 6, 400)] + rng.normal(size=(400, 8)) for _ in range(200)]
    found = [inception_score(draw, parts)[0] for draw in draws]
    spread = np.std([one.value for one in found])
    assert np.median([one.error for one in found]) == pytest.approx(spread, rel=0.15)


def test_samples_sorted_by_class_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    logits = {"logits": np.random.default_rng(0).normal(size=(12, 10))}

    def how(labels: list[int] | None, **keys: int | None) -> str:
        labels = None if labels is None else np.array(labels, np.uint8)
        [score] = module.Metric(**keys).scores(Images(logits, labels=labels), Images(), "inception")
        return score.how

    in_order = [0] * 4 + [1] * 4 + [3] * 4
    assert how(in_order, chunk=5).startswith(
        "MEANS NOTHING, since the samples are sorted by class: parts of 5 in order"
    )
    assert capsys.readouterr().err == (
        "note: an Inception score of samples sorted by class means nothing; chunk=None shuffles them\n"
    )
    for labels in (None, in_order[::-1], [2] * 12, [0, 1, 2] * 4):
        assert how(labels, chunk=5).startswith("parts of 5 in order")
    assert how(in_order, chunk=12).startswith("parts of 12 in order")  # all in one
    assert how(in_order, chunk=None, parts=2).startswith("2 shuffled parts")
    assert capsys.readouterr().err == ""


def test_refusals(oracle: Oracle) -> None:
    with pytest.raises(UserError) as caught:
        shuffled(9)
    assert str(caught.value) == "an Inception score over 10 parts needs at least 10 samples, got 9"
    with pytest.raises(UserError) as caught:
        inception_score(np.empty((0, 10)), consecutive(0))
    assert str(caught.value) == "there are no samples for an Inception score"
    bad = oracle["logits"].copy()
    bad[130, 3] = np.nan
    with pytest.raises(UserError) as caught:
        inception_score(bad, consecutive(500, 100))
    assert str(caught.value) == "the features of image 130 hold NaN or infinity, 1 image(s) in all"
    with pytest.raises(UserError) as caught:
        inception_score(bad, shuffled(500))
    assert str(caught.value) == "the features of image 130 hold NaN or infinity, 1 image(s) in all"
