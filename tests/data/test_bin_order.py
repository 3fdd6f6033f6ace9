"""Bins of batches: by the share of their records, at any position, counted without a gap."""

from __future__ import annotations

import numpy as np

from flexidit_jax.data.bin_order import ROUND, BinOrder


def test_batches_of_a_bin_are_counted_without_a_gap() -> None:
    order = BinOrder([600, 100, 300], seed=3)
    drawn = [order(number) for number in range(3 * ROUND)]
    for own in range(3):
        assert [k for which, k in drawn if which == own] == [*range(sum(which == own for which, _ in drawn))]
    shares = np.bincount([which for which, _ in drawn]) / len(drawn)
    np.testing.assert_allclose(shares, [0.6, 0.1, 0.3], atol=0.03)


def test_a_position_is_reached_from_anywhere() -> None:
    order, numbers = BinOrder([5, 2], seed=1), (2500, 3, 1024, 1023, 2500)
    assert [BinOrder([5, 2], seed=1)(number) for number in numbers] == [order(number) for number in numbers]


def test_the_seed_decides() -> None:
    first, other = ([BinOrder([1, 1], seed)(n)[0] for n in range(64)] for seed in (0, 1))
    assert first != other and {*first} == {*other} == {0, 1}
