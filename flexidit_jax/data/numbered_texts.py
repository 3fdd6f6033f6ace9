"""Captions of records that are kept: of each record the numbers of its texts, whose features lie beside.

{"texts": int32 [n]}      n of the record that has most; -1 where a record has fewer
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

#: the field of a record, and the folder of features
TEXTS = "texts"
#: the field of a record that has one by now
TEXT = "text"


def all_texts(source: Sequence[Any]) -> list[str]:
    """The different captions of a source, in the order in which they come."""
    return list(dict.fromkeys(text for texts in source.texts for text in texts))


class NumberedTexts(Sequence):
    """The records of a source of captions, with numbers in place of texts.

    Args:
      source: see `data`.
      numbers: of every caption.
    """

    def __init__(self, source: Sequence[Any], numbers: Mapping[str, int]) -> None:
        self._source, self._numbers, self._most = source, numbers, max(map(len, source.texts))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, i: int) -> dict[str, Any]:
        record = self._source[i]  # which is another one where that of this number is corrupt
        said = record[TEXTS] if TEXTS in record else (record[TEXT],)
        texts = np.full(self._most, -1, np.int32)
        texts[: len(said)] = [self._numbers[text] for text in said]
        return {**{key: value for key, value in record.items() if key not in (TEXTS, TEXT)}, TEXTS: texts}


class First(Sequence):
    """Records with features of their first captions.

    Args:
      records: with numbers of texts.
      features: see `read`.
    """

    def __init__(self, records: Sequence[Any], features: Any) -> None:
        self._records, self._features, self.bins = records, features, getattr(records, "bins", None)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return read(self._records[i], self._features)


def read(record: Mapping[str, Any], features: Any, rng: np.random.Generator | None = None) -> dict[str, Any]:
    """A record with features of one of its texts in place of their numbers.

    Args:
      features: see `data.text_features.TextFeatures`.
      rng: which one; None takes the first.

    Returns:
      The other fields, `tokens` [M, k] as they were kept, zero behind the text, and `mask` bool [M].
    """
    numbers = record[TEXTS][record[TEXTS] >= 0]
    own = features.kept(int(numbers[0] if rng is None else rng.choice(numbers)))
    tokens = np.zeros((features.made["length"], own.shape[1]), own.dtype)
    tokens[: len(own)] = own
    others = {key: value for key, value in record.items() if key != TEXTS}
    return {**others, "tokens": tokens, "mask": np.arange(len(tokens)) < len(own)}
