"""CMMD against another evaluator."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics import cmmd as module
from flexidit_jax.metrics.cmmd import cmmd, unit

Oracle = Mapping[str, np.ndarray]


@pytest.mark.parametrize("tile", [2800, 37])
def test_it_is_that_of_other_evaluators(oracle: Oracle, monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    monkeypatch.setattr(module, "TILE", tile)
    assert cmmd(oracle["sample"], oracle["reference"]).value == pytest.approx(oracle["cmmd"], rel=1e-9)


def test_it_nearly_is_the_distance_of_means(oracle: Oracle) -> None:
    means = [unit(oracle[key]).mean(0) for key in ("sample", "reference")]
    assert 10 * np.sum((means[0] - means[1]) ** 2) == pytest.approx(oracle["cmmd"], rel=0.01)


def test_a_set_is_at_no_distance_from_itself(oracle: Oracle) -> None:
    assert cmmd(oracle["sample"], oracle["sample"][::-1]).value == pytest.approx(0, abs=1e-12)


def test_the_standard_error_is_the_spread_of_draws() -> None:
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(200, 4))
    found = [cmmd(0.3 + rng.normal(size=(120, 4)), reference) for _ in range(150)]
    spread = np.std([one.value for one in found])
    assert np.median([one.error for one in found]) == pytest.approx(spread, rel=0.15)


def test_refusals(oracle: Oracle) -> None:
    bad = oracle["sample"].copy()
    bad[5] = 0
    with pytest.raises(UserError) as caught:
        cmmd(bad, oracle["reference"])
    assert str(caught.value) == "the embedding of image 5 is zero and has no direction"
    bad[4] = np.nan
    with pytest.raises(UserError, match="the features of image 4 hold NaN"):
        cmmd(oracle["reference"], bad)
    with pytest.raises(UserError) as caught:
        cmmd(bad[:0], oracle["reference"])
    assert str(caught.value) == "CMMD needs images, got 0 samples and 400 reference images"
