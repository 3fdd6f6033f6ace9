"""T5's tokens are those of the transformers library, and text stays text; what is lost; files that are none."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.models.pretrained.t5_tokenizer import Tokenizer

FOLDER = Path(__file__).parents[2] / "golden"
FILE = FOLDER / "t5_tiny_spiece.model"
CASES = json.loads((FOLDER / "t5_tiny_tokens.json").read_text())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(FILE)


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case["text"][:20]))
def test_golden_tokens(tokenizer: Tokenizer, case: dict) -> None:
    found = tokenizer([case["text"]], case["max_length"])
    assert found.ids[0].tolist() == case["ids"]
    assert found.mask[0].tolist() == [bool(valid) for valid in case["mask"]]


def test_words_that_are_lost(tokenizer: Tokenizer) -> None:
    """`word` is four pieces: a word that is cut within counts as lost."""
    text = "word word word"
    whole = int(tokenizer([text], 99).mask.sum())
    lost = {length: tokenizer([text], length).lost[0] for length in range(1, whole + 1)}
    assert lost == {
        13: "",
        **dict.fromkeys(range(9, 13), "word"),
        **dict.fromkeys(range(5, 9), "word word"),
        **dict.fromkeys(range(1, 5), "word word word"),
    }
    found = tokenizer(["a cat", text], 5)
    assert found.lost == ["", "word word"]
    assert found.ids[1, -1] == 1  # the end stays


def test_characters_that_are_not_known(tokenizer: Tokenizer) -> None:
    assert tokenizer(["日本語 cat", "a cat", "crème"], 9).unknown == ["日本語", "", "è"]


def test_half_a_character_is_no_text(tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match=r"^prompt 'a \\ud800 cat' holds what is no character of Unicode$"):
        tokenizer(["a \ud800 cat"], 9)


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "spiece.model"
    with pytest.raises(UserError, match=r"spiece\.model cannot be read \(No such file or directory\)$"):
        Tokenizer(file)
    for content in (b"", b"version https://git-lfs.github.com/spec/v1\n", FILE.read_bytes()[:5000]):
        file.write_bytes(content)
        with pytest.raises(UserError) as caught:
            Tokenizer(file)
        assert str(caught.value).startswith(f"{file} is no SentencePiece model (")
        assert str(caught.value).endswith("); is the download complete?")
        assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError) as caught:
        Tokenizer(FILE)
    assert str(caught.value) == f"{FILE} is read by sentencepiece (pip install -e '.[text]')"


def test_a_tokenizer_of_another_model(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """Such as that of Llama: unknown 0, start 1, end 2."""
    from sentencepiece import SentencePieceTrainer

    text = tmp_path / "text.txt"
    text.write_text("a cat and a dog\n" * 9)
    SentencePieceTrainer.train(
        input=str(text), model_prefix=str(tmp_path / "other"), vocab_size=20, minloglevel=9, hard_vocab_limit=False
    )
    with pytest.raises(UserError) as caught:
        Tokenizer(tmp_path / "other.model")
    assert str(caught.value) == (
        f"{tmp_path}/other.model is the tokenizer of another model (pad -1, not 0, eos 2, not 1, unk 0, not 2,"
        " bos 1, not -1); put the spiece.model of a T5 v1.1 there"
    )
    for rows in (260, 388):
        tokenizer.check(rows)
    for rows in (259, 389):
        with pytest.raises(UserError, match=f"it has 260 pieces, and the encoder {rows} rows$"):
            tokenizer.check(rows)
