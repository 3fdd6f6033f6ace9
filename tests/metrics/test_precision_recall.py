"""Precision and recall against another evaluator and by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics import distances
from flexidit_jax.metrics.precision_recall import precision_recall

Oracle = Mapping[str, np.ndarray]


@pytest.mark.parametrize("tile", [(2000, 10_000), (64, 96)])
@pytest.mark.parametrize("distance", ["float32", "float64"])
def test_they_are_those_of_other_evaluators(
    oracle: Oracle, monkeypatch: pytest.MonkeyPatch, tile: tuple[int, int], distance: str
) -> None:
    monkeypatch.setattr(distances, "ROWS", tile[0])
    monkeypatch.setattr(distances, "COLUMNS", tile[1])
    found = precision_recall(oracle["sample"], oracle["reference"], distance=distance)
    assert (found.precision.value, found.recall.value) == (oracle["precision"], oracle["recall"])
    five = precision_recall(oracle["sample"], oracle["reference"], 5)
    np.testing.assert_allclose((five.precision.value, five.recall.value), oracle["prdc_k5"][:2], rtol=1e-12)


def test_by_hand() -> None:
    """On a line: balls of k = 1 about 0, 1, 3 reach 1, 1, 2; about 4, 20, 21, 40 they reach 16, 1, 1, 19."""
    reference = np.array([[0.0], [1.0], [3.0]])
    samples = np.array([[4.0], [20.0], [21.0], [40.0]])
    found = precision_recall(samples, reference, 1)
    assert found.precision.value == 1 / 4  # 4 lies in the ball of 3
    assert found.recall.value == 3 / 3  # all lie in the ball of 4
    assert found.precision.error == pytest.approx(np.sqrt(1 / 4 * 3 / 4 / 4))
    assert (found.precision.of_reference, found.recall.of_reference) == (False, True)
    turned = precision_recall(reference, samples, 1)
    assert (turned.precision.value, turned.recall.value) == (1, 1 / 4)


def test_an_edge_belongs_to_its_ball() -> None:
    reference = np.array([[0.0], [2.0], [100.0], [103.0]])
    samples = np.array([[-2.0], [104.0]])
    assert precision_recall(samples, reference, 1, "float64").precision.value == 1.0  # -2 is as far from 0 as 2 is


def test_half_precision_finds_other_balls() -> None:
    """Features far from 0: half precision has few different distances."""
    rng = np.random.default_rng(0)
    reference, samples = (rng.normal(size=(n, 64)).astype(np.float32) + 2 for n in (200, 300))
    exact, half = (precision_recall(samples, reference, distance=kind) for kind in ("float32", "float16"))
    assert abs(exact.precision.value - half.precision.value) < 0.1
    assert (exact.precision.value, exact.recall.value) != (half.precision.value, half.recall.value)


def test_too_few_images(oracle: Oracle) -> None:
    for samples, reference in [(3, 400), (500, 3)]:
        with pytest.raises(UserError) as caught:
            precision_recall(oracle["sample"][:samples], oracle["reference"][:reference])
        assert str(caught.value) == "3 images are too few for balls that reach to neighbour 3; 4 would do"
