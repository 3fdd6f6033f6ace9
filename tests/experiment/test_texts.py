"""Prompts of a config: read, kept, gone on with; a stop in between."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.experiment.sections import Encoding
from flexidit_jax.experiment.texts import Texts, check_encoder, keep, made_by, said, texts_of
from flexidit_jax.text import t5

PROMPTS = [f"prompt {i}" for i in range(5)]
SECTION = Encoding(shard=2, dtype="float32")


class Counting:
    """An encoder of one token a text, its number; it counts what it reads and how often it is freed."""

    width, length = 2, 4

    def __init__(self) -> None:
        self.read: list[str] = []
        self.freed = 0

    def fingerprint(self) -> dict[str, Any]:
        return {"encoder": "0123", "length": 4, "clean": "none"}

    def encode(self, prompts: list[str]) -> dict[str, np.ndarray]:
        self.read += prompts
        tokens = np.float32([[[int(prompt[-1])] * 2] * 4 for prompt in prompts])
        return {"tokens": tokens, "mask": np.arange(4) < np.ones((len(prompts), 1))}

    def free(self) -> None:
        self.freed += 1


def test_a_stop_costs_the_shards_that_are_left(tmp_path: Path) -> None:
    encoder, folder = Counting(), tmp_path / "texts"

    class Soon:
        """Is asked to stop after two shards."""

        @property
        def asked(self) -> bool:
            return len(encoder.read) >= 4

    assert keep(encoder, PROMPTS, folder, SECTION, Soon()) is None
    assert (encoder.read, encoder.freed) == (PROMPTS[:4], 1)
    kept = keep(encoder, PROMPTS, folder, SECTION, SimpleNamespace(asked=False))
    assert (encoder.read, encoder.freed) == (PROMPTS, 2)
    np.testing.assert_array_equal(np.concatenate(list(kept)), [[i, i] for i in range(5)])
    assert keep(encoder, PROMPTS, folder, SECTION, SimpleNamespace(asked=True)) is None  # whether they are sound
    assert Texts(PROMPTS).found(folder).kept is not None
    assert Texts(PROMPTS[:4]).found(folder).kept is None and Texts(PROMPTS).found(tmp_path).kept is None


def test_a_full_disk_is_refused_before_an_encoder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Counting()
    monkeypatch.setattr("flexidit_jax.runs.shards.shutil.disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(
        fd.UserError, match=r"more for features of 5 texts, and 10 bytes are free; make room, or name anoth"
    ):
        keep(encoder, PROMPTS, tmp_path / "texts", SECTION, SimpleNamespace(asked=False))
    assert encoder.read == []


def test_of_an_encoder_whose_files_are_away_its_cleaning_is_known(tmp_path: Path) -> None:
    assert made_by(t5.Encoder(str(tmp_path), clean="none"), 32) == {"clean": "none"}
    assert made_by(None, 32) == {}


def test_what_is_written_beside_a_picture_makes_it_again() -> None:
    spec = fd.SampleSpec(steps=3, seed=7)
    told = said({"prompt": "a cat"}, 4, spec, "blurry")
    assert told == {"prompt": "a cat", "number": 4, "negative": "blurry", "seed": 7, "spec": spec.recorded()}


def test_prompts_are_of_a_model_of_texts(texts: fd.FlexiDiT, dit: fd.FlexiDiT) -> None:
    reads, classes = texts.model.conditioner, dit.model.conditioner
    assert texts_of(["a", "b"], None, reads).asked == ["a", "b"]
    assert texts_of(None, 3, reads) is None and texts_of(None, None, classes) is None
    with pytest.raises(fd.UserError, match=r"^sample\.prompts are for a model of texts, and this one is of another"):
        texts_of("a", None, classes)
    with pytest.raises(fd.UserError, match=r"^this config has no text section, whose encoder reads prompts; give it"):
        check_encoder(None, 32)
    long = "a picture, " * 500  # no name of a file
    assert texts_of(long, None, reads).prompts == [long]
