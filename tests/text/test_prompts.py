"""Prompts as they are handed in, and their features: read once each, and the encoder's memory given back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.text.prompts import check_prompts, features_of, read_prompts, with_features


class Letters:
    """An encoder whose tokens are letters, at most three."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def check(self, width: int) -> None:
        self.calls.append(width)
        if width != 2:
            raise UserError("other features")

    def encode(self, prompts: Sequence[str]) -> dict[str, np.ndarray]:
        self.calls.append(list(prompts))
        mask = np.arange(3) < np.array([[max(len(prompt), 1)] for prompt in prompts])
        tokens = np.array([[[len(prompt), i] for i in range(3)] for prompt in prompts], np.float32)
        return {"tokens": tokens, "mask": mask}

    def free(self) -> None:
        self.calls.append("freed")


def test_a_file_a_list_or_one_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\ufeffa red apple\n  zwei Äpfel \r\nthree", encoding="utf-8")
    assert read_prompts(str(file)) == ["a red apple", "  zwei Äpfel ", "three"]
    (tmp_path / "captions").write_text("one\n")
    assert read_prompts(str(tmp_path / "captions")) == ["one"]
    assert read_prompts("a red apple") == ["a red apple"]
    for long in ("a picture, " * 500, "a" * 300, "a\0b"):  # no names of files
        assert read_prompts(long) == [long]
    assert read_prompts(("a", "b")) == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "the prompts {file} cannot be read (No such file or directory); a prompt a line would do"),
        (b"", "{file} holds no prompts; write one a line"),
        (b"\n  \n", "{file} holds no prompts; write one a line"),
        (b"a\n\nb\n", "line 2 of {file} is empty; write a prompt a line, and no line without one"),
        (b"\xff\xfe\x00", "{file} holds no text in UTF-8; save the prompts so, one a line"),
    ],
)
def test_a_file_that_holds_none(tmp_path: Path, content: bytes | None, says: str) -> None:
    file = tmp_path / "prompts.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_prompts(str(file))
    assert str(caught.value) == says.format(file=file)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ([], "prompts must be a list of texts, and at least one, got []"),
        ("a cat", "prompts must be a list of texts, and at least one, got 'a cat'"),
        (3, "prompts must be a list of texts, and at least one, got 3"),
        (["a", 3], "prompt 1 must be a text, got 3"),
        (["a", " \n"], "prompt 1 is empty; write what is to be seen, or leave it out"),
    ],
)
def test_what_are_no_prompts(asked: Any, says: str) -> None:
    with pytest.raises(UserError) as caught:
        check_prompts(asked)
    assert str(caught.value) == says


def test_features_are_of_the_tokens_that_a_text_has() -> None:
    found = features_of(Letters(), ["a", "abcd", ""])
    assert [one.shape for one in found] == [(1, 2), (3, 2), (1, 2)]
    np.testing.assert_array_equal(found[1], [[4, 0], [4, 1], [4, 2]])


def test_each_text_is_read_once_and_what_is_none_stays() -> None:
    encoder, ready = Letters(), np.ones((2, 2))
    asked, negative = with_features(encoder, 2, ["a", None, ready, "ab", "a"], "ab")
    assert encoder.calls == [2, ["a", "ab"], "freed"]
    assert asked[1] is None and asked[2] is ready and asked[0] is asked[4] and asked[3] is negative[0]
    assert with_features(encoder, 2, ["a"], ["", None])[1][0].shape == (1, 2)  # an empty negative is one
    assert with_features(encoder, 2, ["a"], ready)[1][0] is ready
    encoder.calls.clear()
    assert with_features(encoder, 2, [ready, None], None) == [[ready, None], None]
    assert with_features(None, 2, {"tokens": 1}, 7) == [{"tokens": 1}, 7]
    assert encoder.calls == []


def test_its_memory_is_given_back_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Letters()
    monkeypatch.setattr(encoder, "encode", None)
    with pytest.raises(TypeError):
        with_features(encoder, 2, ["a"])
    assert encoder.calls == [2, "freed"]
    with pytest.raises(UserError, match=r"^other features$"):
        with_features(encoder, 3, ["a"])
    with pytest.raises(UserError, match=r"^prompt 1 is empty; write what is to be seen, or None for no text$"):
        with_features(encoder, 2, [None, " "])
    with pytest.raises(UserError, match=r"^this model has no text encoder to read prompts with; give it one \(text\."):
        with_features(None, 2, ["a"])
