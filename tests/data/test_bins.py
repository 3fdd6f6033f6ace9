"""Records of one shape, and of several joined."""

from __future__ import annotations

import numpy as np
import pytest

from flexidit_jax.data.bins import Joined, bins_of


class Source(list):
    bins = np.array([2, 0, 2, 2, 0])
    texts = (("a",), ("b", "c"), ("d",), ("e",), ("f",))
    fields = ("x",)


def test_those_of_a_bin() -> None:
    every = bins_of(Source("abdef"))
    assert {number: list(records) for number, records in every.items()} == {0: ["b", "f"], 2: ["a", "d", "e"]}
    assert every[0].texts == [("b", "c"), ("f",)]


def test_they_are_joined_in_order() -> None:
    joined = Joined([Source("abc"), Source("de")], [4, 1])
    assert (list(joined), joined.bins.tolist(), joined.fields) == ([*"abcde"], [4, 4, 4, 1, 1], ("x",))
    for number in (-1, 5):
        with pytest.raises(IndexError):
            joined[number]
