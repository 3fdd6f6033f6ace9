"""T5's tokens of a text: pieces of words, by the `spiece.model` that a model comes with. Wants the extra `text`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flexidit_jax.common.errors import UserError, first_line

PIECES = "spiece.model"
#: of T5, by what sentencepiece calls them; there is none that starts a text
IDS = {"pad": 0, "eos": 1, "unk": 2, "bos": -1}
#: what pieces begin with that begin a word
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"


class Tokens(NamedTuple):
    """Rows of pieces, each with an end, then padding.

    Attributes:
      ids: int32 [B, L].
      mask: bool [B, L], of what is no padding.
      lost: of each text, the words from the first on that found no whole place; "" where none is lost.
      unknown: of each text, the characters that the tokenizer knows nothing of.
    """

    ids: np.ndarray
    mask: np.ndarray
    lost: list[str]
    unknown: list[str]


class Tokenizer:
    """Texts -> `Tokens`. Text stays text: a literal `</s>` within it is pieces like any other.

    Args:
      file: a `spiece.model`.

    Raises:
      UserError: no sentencepiece here, or a file that is not there, or of no T5.
    """

    def __init__(self, file: Path) -> None:
        try:
            from sentencepiece import SentencePieceProcessor
        except ImportError:
            raise UserError(f"{file} is read by sentencepiece (pip install -e '.[text]')") from None
        try:
            content = file.read_bytes()
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror})") from None
        try:
            self._pieces = SentencePieceProcessor(model_proto=content or b"none")  # empty, it would say nothing
        except (RuntimeError, OSError, ValueError) as error:
            raise UserError(
                f"{file} is no SentencePiece model ({first_line(error)}); is the download complete?"
            ) from None
        found = {name: getattr(self._pieces, f"{name}_id")() for name in IDS}
        if found != IDS:
            told = ", ".join(f"{name} {id}, not {IDS[name]}" for name, id in found.items() if id != IDS[name])
            raise UserError(f"{file} is the tokenizer of another model ({told}); put the {PIECES} of a T5 v1.1 there")
        self._file = file

    def check(self, words: int, spare: int = 128) -> None:
        """Refuses an encoder of another vocabulary.

        Args:
          words: how many ids the encoder has.
          spare: at most so many of these are of pieces that no text has, and what makes a round number.

        Raises:
          UserError: fewer than the tokenizer, or many more.
        """
        pieces = self._pieces.get_piece_size()
        if not pieces <= words <= pieces + spare:
            raise UserError(
                f"{self._file} is the tokenizer of another model: it has {pieces} pieces, and the encoder {words} rows"
            )

    def __call__(self, texts: Sequence[str], length: int) -> Tokens:
        """Tokens of texts, `length` a row; what is too long keeps its end and loses its last pieces.

        Raises:
          UserError: a text that is none, such as half a character.
        """
        ids, mask = np.full((len(texts), length), IDS["pad"], np.int32), np.zeros((len(texts), length), bool)
        lost, unknown = [], []
        for row, text in enumerate(texts):
            try:
                found, pieces = self._pieces.encode(text), self._pieces.encode(text, out_type=str)
            except (RuntimeError, ValueError):
                raise UserError(f"prompt {text!a} holds what is no character of Unicode") from None
            kept = [*found[: length - 1], IDS["eos"]]
            ids[row, : len(kept)], mask[row, : len(kept)] = kept, True
            lost.append(_words_from(pieces, length - 1))
            unknown.append("".join(piece for piece, id in zip(pieces, found, strict=True) if id == IDS["unk"]))
        return Tokens(ids, mask, lost, unknown)


def _words_from(pieces: Sequence[str], first: int) -> str:
    """The words of pieces from that on which the piece `first` is of; "" where there are no more."""
    if first >= len(pieces):
        return ""
    begin = max((i for i in range(first + 1) if pieces[i].startswith(_SPACE)), default=0)
    return "".join(pieces[begin:]).replace(_SPACE, " ").strip()
