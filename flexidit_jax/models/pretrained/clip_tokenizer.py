"""CLIP's tokens of a text: byte pairs, from the `vocab.json` and `merges.txt` that a model comes with."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import json_object

VOCABULARY, MERGES = "vocab.json", "merges.txt"
START, END = "<|startoftext|>", "<|endoftext|>"
#: what ends the last piece of a word
_LAST = "</w>"
_SHORT = re.compile("'s|'t|'re|'ve|'m|'ll|'d")
#: on a text's kinds of characters, see `_kind`
_RUN = re.compile("L+|N|O+")


class Tokenizer:
    """Texts -> rows of ids: the start, pieces of words, the end, which also fills the row.

    Args:
      vocabulary: id by piece.
      merges: pairs of pieces, the one that is joined first before the others.

    Attributes:
      sha256: of both, 64 hex digits.
    """

    def __init__(self, vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> None:
        self._vocabulary = vocabulary
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._pieces = cache(self._split)
        said = json.dumps([dict(vocabulary), list(merges)], sort_keys=True)
        self.sha256 = hashlib.sha256(said.encode()).hexdigest()

    @classmethod
    def of(cls, folder: Path) -> Tokenizer:
        """Reads the two files of a model's folder.

        Raises:
          UserError: one is missing, or is no such file.
        """
        try:
            lines = (folder / MERGES).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            cure = f"put that and {VOCABULARY} of the model there"
            raise UserError(f"{folder} has no readable {MERGES}; {cure}") from None
        vocabulary = json_object(folder / VOCABULARY)
        if not {START, END} <= vocabulary.keys():
            raise UserError(f"{folder / VOCABULARY} is no vocabulary of CLIP: it has no {START} and {END}")
        merges = [tuple(line.split()) for line in lines if not line.startswith("#version")]
        return cls(vocabulary, [pair for pair in merges if len(pair) == 2])

    def __call__(self, texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids of texts, words in any case.

        Returns:
          int32 [B, length], and how many pieces [B] of each text found no place.
        """
        start, end = self._vocabulary[START], self._vocabulary[END]
        ids, lost = np.full((len(texts), length), end, np.int32), np.zeros(len(texts), np.int32)
        for row, text in enumerate(texts):
            words = _words(" ".join(unicodedata.normalize("NFC", text).split()).lower())
            found = [self._vocabulary.get(piece, end) for word in words for piece in self._pieces(word)]
            kept = [start, *found[: length - 2]]
            ids[row, : len(kept)], lost[row] = kept, len(found) - len(kept) + 1
        return ids, lost

    def _split(self, word: str) -> list[str]:
        """The pieces of a word: its bytes, pairs of which are joined until no merge is left."""
        pieces = [_letters()[byte] for byte in word.encode()]
        pieces[-1] += _LAST
        while len(pieces) > 1:
            best = min(pairwise(pieces), key=lambda pair: self._ranks.get(pair, len(self._ranks)))
            if best not in self._ranks:
                break
            joined, i = [], 0
            while i < len(pieces):
                pair = tuple(pieces[i : i + 2]) == best
                joined.append("".join(best) if pair else pieces[i])
                i += 2 if pair else 1
            pieces = joined
        return pieces


def _words(text: str) -> Iterator[str]:
    """Runs of letters, single digits, runs of anything else but space; short forms such as 's by themselves."""
    kinds, at = "".join(map(_kind, text)), 0
    while at < len(text):
        if match := _SHORT.match(text, at) or _RUN.match(kinds, at):
            yield text[at : match.end()]
        at = match.end() if match else at + 1


def _kind(character: str) -> str:
    """L for a letter, N for a number, S for space, O for others."""
    kind = unicodedata.category(character)[0]
    return kind if kind in "LN" else "S" if character.isspace() else "O"


@cache
def _letters() -> dict[int, str]:
    """A printable character for each byte: itself where it is one, else the next of those from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}
