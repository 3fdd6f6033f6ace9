"""Words as fixed random vectors: an encoder without a network and without files, for captions of few words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_256

import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.notes import note
from flexidit_jax.common.tensor_files import told

#: a word, in lower case; all else lies between words
WORD = re.compile(r"\w+")
#: behind the last word; no word is empty
END = ""


@dataclass(frozen=True)
class Encoder:
    """A vector of unit variance for every word at every place, out of a hash: the same on every machine.

    A word has another vector at another place, so that a model need not learn where words stand.

    Attributes:
      length: M, words of a prompt with its end; None: as many as the model reads.
      width: k, numbers of a vector.
      seed: of all vectors.
    """

    length: int | None = None
    width: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        build.positive("text", width=self.width, **({} if self.length is None else {"length": self.length}))
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise UserError(f"text.seed must be a whole number, 0 or more, got {self.seed!r}")

    def check(self, width: int | None = None) -> None:
        """Says before long work whether a model reads features of this width.

        Raises:
          UserError: it does not.
        """
        if width not in (None, self.width):
            raise UserError(
                f"text.width={self.width} makes features of {self.width} channels, and the model reads {width}; set it"
                " to that of the encoder that the model was trained with"
            )

    def fingerprint(self) -> dict[str, str | int | None]:
        """What the tokens of a prompt depend on: the vectors, length, and what words are."""
        return {"encoder": f"hashed_words of seed {self.seed}", "length": self.length, "clean": WORD.pattern}

    def encode(self, prompts: Sequence[str], padded: bool = False) -> dict[str, np.ndarray]:
        """Prompts -> `tokens` [B, M, k] float32, zero where there is no text, and `mask` bool [B, M].

        "" has a token, its end. A line says which prompts lose words.

        Args:
          prompts: texts.
          padded: fill places without text too, as if ends followed.

        Raises:
          UserError: no texts, or a length that nobody says.
        """
        if self.length is None:
            raise UserError("text.length is open, and no model is there to say it; the words of a prompt and its end")
        if isinstance(prompts, str) or not len(prompts) or not all(isinstance(prompt, str) for prompt in prompts):
            raise UserError("prompts must be a list of texts, and at least one")
        words, most = [WORD.findall(prompt.lower()) for prompt in prompts], self.length - 1
        lost = [" ".join(found[most:]) for found in words]
        if any(lost):
            which = told([f"{what!r} of {prompt!r}" for what, prompt in zip(lost, prompts) if what])
            note(f"more than {most} words, so the last words are not read: {which}")
        counts = np.array([min(len(found), most) + 1 for found in words])
        rows = [[*found[:most], *[END] * self.length][: self.length] for found in words]
        tokens = np.stack([[vector(self.seed, i, word, self.width) for i, word in enumerate(row)] for row in rows])
        mask = np.arange(self.length) < counts[:, None]
        return {"tokens": np.where(mask[..., None] | padded, tokens, np.float32(0)), "mask": mask}

    def free(self) -> None:
        """There is no network whose memory could be given back."""


@lru_cache(maxsize=4096)
def vector(seed: int, place: int, word: str, width: int) -> np.ndarray:
    """[width] float32, uniform with mean 0 and variance 1."""
    digest = shake_256(f"{seed} {place} {word}".encode()).digest(4 * width)
    return ((np.frombuffer(digest, "<u4") / 2.0**31 - 1) * 3**0.5).astype(np.float32)
