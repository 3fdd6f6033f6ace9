"""KID against torch-fidelity and by all pairs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics import kid as module
from flexidit_jax.metrics.kid import kid, kid_of_subsets

Oracle = Mapping[str, np.ndarray]


def test_subsets_are_those_of_torch_fidelity(oracle: Oracle) -> None:
    found = kid_of_subsets(oracle["sample"], oracle["reference"], 10, 100)
    np.testing.assert_allclose(found.each, oracle["kid_each"], rtol=1e-9)
    assert found.mean == pytest.approx(oracle["kid_mean"], rel=1e-9)
    assert found.deviation == pytest.approx(oracle["kid_std"], rel=1e-9)
    rng = np.random.RandomState(2020)  # first samples, then reference images
    for i in range(10):
        np.testing.assert_array_equal(rng.choice(500, 100, replace=False), oracle["kid_subsets_sample"][i])
        np.testing.assert_array_equal(rng.choice(400, 100, replace=False), oracle["kid_subsets_reference"][i])


@pytest.mark.parametrize("tile", [2800, 37])
def test_all_images_at_once(oracle: Oracle, monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    monkeypatch.setattr(module, "TILE", tile)
    assert kid(oracle["sample"], oracle["reference"]).value == pytest.approx(oracle["kid_all"], rel=1e-9)


def test_two_draws_of_one_distribution_score_nothing_on_average() -> None:
    rng = np.random.default_rng(0)
    found = [kid(*rng.normal(size=(2, 20, 4))).value for _ in range(400)]
    assert abs(np.mean(found)) < 3 * np.std(found) / 20
    assert min(found) < 0


def test_the_standard_error_is_the_spread_of_draws() -> None:
    rng = np.random.default_rng(1)
    reference = rng.normal(size=(200, 4))
    found = [kid(0.3 + rng.normal(size=(120, 4)), reference) for _ in range(150)]
    spread = np.std([one.value for one in found])
    assert np.median([one.error for one in found]) == pytest.approx(spread, rel=0.15)


def test_refusals(oracle: Oracle) -> None:
    sample, reference = oracle["sample"], oracle["reference"]
    with pytest.raises(UserError) as caught:
        kid_of_subsets(sample, reference)
    assert str(caught.value) == "KID takes 1,000 images or more of each set, and there are 400"
    with pytest.raises(UserError) as caught:
        kid(sample[:1], reference)
    assert str(caught.value) == "KID takes 2 images or more of each set, and there are 1"
    bad = sample.copy()
    bad[7] = np.inf
    for pair in ((bad, reference), (reference, bad)):
        with pytest.raises(UserError, match="the features of image 7 hold NaN or infinity"):
            kid(*pair)
