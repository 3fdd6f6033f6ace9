"""What stands for no text: of the file, or an empty one encoded once; which mask it has; saved with the model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import flexidit_jax as fd
from flexidit_jax.common.errors import UserError
from flexidit_jax.models.flexify import split_frozen
from flexidit_jax.text import t5, umt5

NAME = "caption_projection.y_embedding"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def empty(pixart_pipeline: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features of "" at all places, and which are its own."""
    found = t5.Encoder(str(pixart_pipeline), length=300).encode([""], padded=True)
    return found["tokens"][0], found["mask"][0]


@pytest.fixture
def with_stored(pixart_pipeline: Path, tmp_path: Path) -> Path:
    """The pipeline, whose file holds features of no text as older ones do."""
    root = tmp_path / "stored"
    shutil.copytree(pixart_pipeline, root)
    file = root / "transformer" / WEIGHTS
    save_file(load_file(file) | {NAME: np.full((10, 32), 2, np.float32)}, file)
    return root


def null_of(flex: fd.FlexiDiT) -> tuple[np.ndarray, str]:
    conditioner = flex.model.conditioner
    null = flex.params["trunk"]["conditioner"]["null"]
    assert null.shape == (conditioner.null_length, conditioner.features)
    return null, conditioner.null_mask


def test_a_pipeline_has_that_of_its_encoder(pixart_pipeline: Path, empty: Any, tmp_path: Path) -> None:
    features, own = empty
    flex = fd.load(pixart_pipeline)
    null, mask = null_of(flex)
    np.testing.assert_array_equal(null, features[own])
    assert (mask, len(null), flex.model.conditioner.length) == ("own", 1, 300)
    flex.save(tmp_path / "saved")
    again = fd.load(tmp_path / "saved")
    np.testing.assert_array_equal(null_of(again)[0], null)
    x, cond = np.ones((1, 16, 16, 4), np.float32), flex.model.conditioner.parse([None])
    typed = flex.model.conditioner.parse([features[own]])
    np.testing.assert_array_equal(again.predict(x, [500], cond).output, flex.predict(x, [500], typed).output)


def test_stored_features_are_taken_where_they_are_asked_for(
    with_stored: Path, pixart_pipeline: Path, empty: Any
) -> None:
    np.testing.assert_array_equal(null_of(fd.load(with_stored))[0], empty[0][empty[1]])
    null, mask = null_of(fd.load(with_stored, null="stored"))
    assert (null == 2).all() and (len(null), mask) == (10, "caption")
    assert null_of(fd.load(with_stored, null="stored", null_mask="own"))[1] == "own"
    assert fd.load(with_stored, null="none").model.conditioner.null_length == 0
    with pytest.raises(UserError, match=r"null='stored', but there is no y_embedding; null='empty' reads an empty"):
        fd.load(pixart_pipeline, null="stored")


def test_a_file_by_itself_has_an_encoder_apart(pixart_pipeline: Path, empty: Any) -> None:
    """Of the mask of a caption all that the encoder makes of places is kept, as PixArt-Sigma's training reads it."""
    features, own = empty
    file, text = pixart_pipeline / "transformer" / WEIGHTS, pixart_pipeline / "text_encoder"
    said = {"num_heads": 3, "input_size": 16, "interpolation_scale": 2}
    assert fd.load(file, **said).model.conditioner.null_length == 0
    spiece = {"tokenizer": str(pixart_pipeline / "tokenizer")}
    section = {"name": "t5", "path": str(text), "length": 300, **spiece}
    np.testing.assert_array_equal(null_of(fd.load(file, **said, text=section))[0], features[own])
    whole = fd.load(file, **said, text=section, null_mask="caption", null="empty")
    np.testing.assert_array_equal(null_of(whole)[0], features)
    assert null_of(whole)[1] == "caption" and np.abs(features[~own]).min(axis=1).max() > 0


def test_an_encoder_that_cannot_be_used_is_a_note_or_a_refusal(
    pixart_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pixart_pipeline, tmp_path / "cut")
    (tmp_path / "cut" / "tokenizer" / "spiece.model").unlink()
    assert fd.load(tmp_path / "cut").model.conditioner.null_length == 0
    said = capsys.readouterr().err
    assert said.startswith("note: nothing stands for no text yet, as its encoder cannot be used: no spiece.model in ")
    with pytest.raises(UserError, match=r"^no spiece\.model in .*; put that of a T5 v1\.1 there"):
        fd.load(tmp_path / "cut", null="empty")


def test_the_encoder_of_another_model_is_refused(pixart_pipeline: Path) -> None:
    golden = Path(__file__).parents[1] / "golden"
    with pytest.raises(UserError, match=r"makes features of 32 channels, and the model reads 24; set text\.path to"):
        fd.load(golden / "pixart_tiny.safetensors", text=pixart_pipeline, null="empty")
    with pytest.raises(UserError, match=r"^null='empty' wants a text encoder; name one as text=, such as the folder"):
        fd.load(golden / "pixart_tiny.safetensors", null="empty")


def test_encoders_without_files_are_refused_alike() -> None:
    golden = Path(__file__).parents[1] / "golden"
    words = {"name": "hashed_words", "width": 16}
    with pytest.raises(
        UserError, match=r"^text\.width=16 makes features of 16 channels, and the model reads 24; set it"
    ):
        fd.load(golden / "pixart_tiny.safetensors", text=words, null="empty")
    flex = fd.load(golden / "pixart_tiny.safetensors", text={**words, "width": 24}, null="empty")
    [null], mask = null_of(flex)
    np.testing.assert_array_equal(null, flex.text.encode([""])["tokens"][0, 0])
    assert mask == "own" and null.any()


def test_the_encoder_is_freed(pixart_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    freed = []
    monkeypatch.setattr(t5.T5, "free", lambda self: freed.append(self))
    fd.load(pixart_pipeline)
    assert len(freed) == 1


def test_a_wan_has_that_of_its_encoder(wan_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One row, its end; those behind it are zeros, which are read too. It is never trained, and saved."""
    flex = fd.load(wan_pipeline, length=12)
    found = umt5.Encoder(str(wan_pipeline), length=12).encode([""])["tokens"]
    null, mask = null_of(flex)
    np.testing.assert_array_equal(null, found[0, :1])
    assert mask == "own" and not found[0, 1:].any()
    flex.save(tmp_path / "saved")
    again = fd.load(tmp_path / "saved").flexify([(1, 2, 2), (2, 2, 2)], adapters=2)
    np.testing.assert_array_equal(null_of(again)[0], null)
    assert again.text == flex.text and again.codec == flex.codec
    x, cond = np.ones((1, 3, 6, 8, 4), np.float32), again.model.conditioner.parse([None])
    typed = {"tokens": found}
    np.testing.assert_array_equal(again.predict(x, [500], cond).output, flex.predict(x, [500], typed).output)
    trained, frozen = split_frozen(fd.load(tmp_path / "saved").flexify([(1, 2, 2), (2, 2, 2)]).params)
    assert "null" in frozen["trunk"]["conditioner"] and "null" not in trained["trunk"]["conditioner"]
    capsys.readouterr()
    lone = fd.load(wan_pipeline / "transformer", length=12)
    assert lone.model.conditioner.null_length == 0 and capsys.readouterr().err == ""
    with pytest.raises(UserError, match=r"null='empty' wants a text encoder"):
        fd.load(wan_pipeline / "transformer", null="empty")
