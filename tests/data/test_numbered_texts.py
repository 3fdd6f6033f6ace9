"""Captions by number: those of the record that is read, whichever it is; the first, or one at random."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from flexidit_jax.data.numbered_texts import First, NumberedTexts, all_texts, read


class Captioned(list):
    texts = (("a", "b"), ("c",), ("b", "d", "a"))


def features(length: int = 3) -> Any:
    """Text n has n + 1 tokens, all n."""
    own = [np.full((n + 1, 2), n, np.float16) for n in range(4)]
    return SimpleNamespace(made={"length": length}, kept=own.__getitem__)


@pytest.fixture
def numbered() -> NumberedTexts:
    source = Captioned({"x": i, "texts": texts} for i, texts in enumerate(Captioned.texts))
    source[1] = source[2]  # as where record 1 is corrupt
    return NumberedTexts(source, {text: number for number, text in enumerate(all_texts(source))})


def test_texts_are_numbered_as_they_come(numbered: NumberedTexts) -> None:
    assert all_texts(Captioned()) == ["a", "b", "c", "d"]
    assert [record["texts"].tolist() for record in numbered] == [[0, 1, -1], [1, 3, 0], [1, 3, 0]]
    assert [record["x"] for record in numbered] == [0, 2, 2]
    one = Captioned({"x": i, "text": texts[0]} for i, texts in enumerate(Captioned.texts))
    assert [row["texts"].tolist() for row in NumberedTexts(one, dict(zip("abcd", range(4))))] == [
        *([0, -1, -1], [2, -1, -1], [1, -1, -1])
    ]


def test_features_of_one_of_them(numbered: NumberedTexts) -> None:
    record, rng = numbered[0], np.random.default_rng(0)
    seen = {int(read(record, features(), rng)["tokens"].max()) for _ in range(20)}
    assert seen == {0, 1}  # never what is no text
    first = First(numbered, features(4))
    assert len(first) == 3 and first.bins is None
    for row, number in zip(first, (0, 1, 1), strict=True):
        assert row.keys() == {"x", "tokens", "mask"} and row["tokens"].dtype == np.float16
        np.testing.assert_array_equal(row["mask"], np.arange(4) <= number)
        np.testing.assert_array_equal(row["tokens"], np.where(row["mask"][:, None], number, 0) * np.ones((4, 2)))
