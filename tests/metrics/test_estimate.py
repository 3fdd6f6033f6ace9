"""Numbers with their errors, and differences of paired ones."""

from __future__ import annotations

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics.estimate import Difference, Estimate, difference, mean_of, with_error


def test_the_error_of_a_mean() -> None:
    values = np.random.default_rng(0).normal(size=400)
    found = mean_of(values, 100)
    assert found.value == pytest.approx(100 * values.mean())
    assert found.error == pytest.approx(100 * values.std() / 20)
    assert found.influence.mean() == pytest.approx(0, abs=1e-12)


def test_a_paired_difference_leaves_out_what_both_share() -> None:
    rng = np.random.default_rng(1)
    shared, own = rng.normal(size=1000), 0.1 * rng.normal(size=(2, 1000))
    a, b = mean_of(shared + own[0] + 0.05), mean_of(shared + own[1])
    paired, apart = difference(a, b), difference(a, b, paired=False)
    assert paired.value == apart.value == a.value - b.value
    assert paired.error == pytest.approx(np.std(own[0] - own[1]) / np.sqrt(1000))
    assert apart.error == pytest.approx(np.sqrt(2 / 1000), rel=0.1)
    assert not paired.tie and apart.tie


def test_errors_of_the_same_reference_images_are_paired_however_samples_were_drawn() -> None:
    hits = np.arange(100) % 4 == 0
    recall, less = mean_of(hits, of_reference=True), mean_of(hits & (np.arange(100) > 3), of_reference=True)
    found = difference(recall, less, paired=False)
    assert found.paired and found.error == pytest.approx(np.std(np.arange(100) == 0) / 10)
    assert not difference(recall, mean_of(hits), paired=False).paired


@pytest.mark.parametrize(("value", "tie"), [(0.0199, True), (-0.0199, True), (0.0201, False), (-0.0201, False)])
def test_a_tie_is_what_two_errors_cover(value: float, tie: bool) -> None:
    assert Difference(value, 0.01, True).tie == tie


def test_in_words() -> None:
    assert str(Difference(0.0123, 0.01, True)) == "+0.012 +- 0.020 (a tie)"
    assert str(Difference(-1.23, 0.1, True)) == "-1.23 +- 0.20"
    assert str(Estimate(2.2749, np.array([1.0, -1.0] * 50))) == "2.27 +- 0.10"
    assert with_error(215.837, 1.904) == "215.84 +- 1.90"
    assert with_error(0.83, 0.0) == "0.8300 +- 0.0000"


def test_sets_of_two_sizes_are_not_paired() -> None:
    with pytest.raises(UserError) as caught:
        difference(mean_of(np.arange(5)), mean_of(np.arange(6)))
    assert str(caught.value) == (
        "sets of 5 and 6 samples are not paired; paired sets have sample i of both from the same noise and label"
    )
