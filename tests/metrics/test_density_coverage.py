"""Density and coverage against another evaluator and by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from flexidit_jax.metrics import distances
from flexidit_jax.metrics.density_coverage import density_coverage


@pytest.mark.parametrize("tile", [(2000, 10_000), (64, 96)])
def test_they_are_those_of_other_evaluators(
    oracle: Mapping[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, tile: tuple[int, int]
) -> None:
    monkeypatch.setattr(distances, "ROWS", tile[0])
    monkeypatch.setattr(distances, "COLUMNS", tile[1])
    found = density_coverage(oracle["sample"], oracle["reference"])
    np.testing.assert_allclose((found.density.value, found.coverage.value), oracle["prdc_k5"][2:], rtol=1e-12)


def test_by_hand() -> None:
    """On a line: balls of k = 1 about 0, 1, 3, 50 reach 1, 1, 2, 47."""
    reference = np.array([[0.0], [1.0], [3.0], [50.0]])
    found = density_coverage(np.array([[0.5], [2.5], [200.0]]), reference, 1)
    assert found.density.value == (2 + 1 + 0) / 3  # 0.5 in the balls of 0 and 1, 2.5 in that of 3 alone
    assert found.coverage.value == 3 / 4
    assert (found.density.of_reference, found.coverage.of_reference) == (False, True)
    assert found.density.error == pytest.approx(np.std([2, 1, 0]) / np.sqrt(3))


def test_an_edge_is_outside() -> None:
    reference = np.array([[0.0], [2.0], [100.0], [103.0]])
    found = density_coverage(np.array([[-2.0], [97.0]]), reference, 1, "float64")
    assert (found.density.value, found.coverage.value) == (0, 0)
