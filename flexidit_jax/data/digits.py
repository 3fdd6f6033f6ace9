"""The handwritten digits inside scikit-learn: 1,797 images of 8x8, 10 classes; nothing to download."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from flexidit_jax.common.errors import UserError

Record = dict[str, Any]


class Dataset:
    """A fixed, stratified split of the digits: 1,500 for training, the rest held out.

    Args:
      held_out: images kept from training, drawn evenly from the classes.
      split_seed: which ones.
    """

    shape = (1, 8, 8, 1)
    classes = 10

    def __init__(self, held_out: int = 297, split_seed: int = 0) -> None:
        if not 10 <= held_out <= 1787:
            raise UserError(f"dataset.held_out must lie in 10..1787, got {held_out}")
        self._split = {"test_size": held_out, "random_state": split_seed}

    @cached_property
    def _parts(self) -> tuple[list[Record], list[Record]]:
        from sklearn.datasets import load_digits  # a second of imports, which sampling does not need
        from sklearn.model_selection import train_test_split

        images, labels = load_digits(return_X_y=True)
        x = (images / 8 - 1).astype(np.float32).reshape(-1, *self.shape)  # 0..16 -> [-1, 1]
        y = labels.astype(np.int32)
        train_x, held_x, train_y, held_y = train_test_split(x, y, stratify=y, **self._split)
        return _records(train_x, train_y), _records(held_x, held_y)

    def source(self) -> list[Record]:
        """The training records {"x", "label"}."""
        return self._parts[0]

    def held_out(self) -> list[Record]:
        """Records never trained on."""
        return self._parts[1]


def _records(x: np.ndarray, y: np.ndarray) -> list[Record]:
    return [{"x": image, "label": label} for image, label in zip(x, y, strict=True)]
