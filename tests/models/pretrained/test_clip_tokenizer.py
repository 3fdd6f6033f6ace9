"""CLIP's tokens are those of the transformers library; lengths; files that are none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.models.pretrained.clip_tokenizer import Tokenizer

FOLDER = Path(__file__).parents[2] / "golden" / "clip_tiny_tokenizer"
CASES = json.loads((FOLDER / "tokens.json").read_text())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.of(FOLDER)


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case["text"][:20]))
def test_golden_tokens(tokenizer: Tokenizer, case: dict) -> None:
    ids, _ = tokenizer([case["text"]], case["max_length"])
    assert ids[0].tolist() == case["ids"]


def test_rows_of_several_texts(tokenizer: Tokenizer) -> None:
    ids, lost = tokenizer(["the the the", "THE", "the the the the"], 5)
    assert (ids[0, 1:4] == ids[1, 1]).all()
    assert ids[1, 2:].tolist() == [ids[0, -1]] * 3  # the end ends, and fills
    assert ids[2].tolist() == ids[0].tolist()
    assert lost.tolist() == [0, 0, 1]


def test_short_forms_and_numbers_stand_alone(tokenizer: Tokenizer) -> None:
    """A number in several digits is as many tokens; what is apart by a space is the same apart by itself."""
    for together, apart in (("it's", "it 's"), ("42", "4 2"), ("a½b", "a ½ b"), ("cat!?", "cat !?")):
        ids, _ = tokenizer([together, apart], 12)
        assert ids[0].tolist() == ids[1].tolist()
    for together, apart in (("it's", "it ' s"), ("!'s", "! 's")):  # but signs run on to the apostrophe
        ids, _ = tokenizer([together, apart], 12)
        assert ids[0].tolist() != ids[1].tolist()


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        Tokenizer.of(tmp_path)
    assert str(caught.value) == f"{tmp_path} has no readable merges.txt; put that and vocab.json of the model there"
    shutil.copy(FOLDER / "merges.txt", tmp_path)
    with pytest.raises(UserError, match=r"vocab\.json cannot be read \(No such file or directory\)$"):
        Tokenizer.of(tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 1}')
    with pytest.raises(UserError) as caught:
        Tokenizer.of(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'vocab.json'} is no vocabulary of CLIP: it has no <|startoftext|> and <|endoftext|>"
    )
