"""Captions of batches are read by the config's encoder, and few notes are told of them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from flexidit_jax.common.notes import note
from flexidit_jax.experiment.captions import reader


class Encoder:
    """A token a text, its length; it has something to say of every text."""

    length, width = 4, 2

    def check(self, width: int) -> None:
        assert width == 2

    def encode(self, prompts: list[str]) -> dict[str, np.ndarray]:
        for prompt in prompts:
            note(f"{prompt} is odd")
        tokens = np.array([[[len(prompt)] * 2] * 4 for prompt in prompts], np.float32)
        return {"tokens": tokens, "mask": np.ones((len(prompts), 4), bool)}


def test_batch_by_batch(capsys: pytest.CaptureFixture[str]) -> None:
    conditioner = SimpleNamespace(fields=("tokens", "mask"), features=2, length=4)
    model = SimpleNamespace(conditioner=conditioner)
    experiment = SimpleNamespace(model=model, dataset=None, text=Encoder())
    read = reader(experiment, {"x": np.zeros(1), "text": "a"})
    for number in range(4):
        found = read({"x": np.zeros((2, 1)), "text": np.array([f"{number}", f"{number}{number}"])})
        np.testing.assert_array_equal(found["tokens"][:, 0, 0], [1, 2])
        assert found["mask"].all() and found["x"].shape == (2, 1)
    told = capsys.readouterr().err.splitlines()
    assert told == [
        *(f"note: {text} is odd" for text in ("0", "00", "1")),
        "note: and others alike, which are not told",
    ]
    without = reader(experiment, {"x": np.zeros(1), "tokens": np.zeros(4), "mask": np.zeros(4)})
    assert without({"x": 1}) == {"x": 1}
