"""What a pipeline tells beside its transformer: text encoder, length of texts, noise process."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

import flexidit_jax as fd
from flexidit_jax.common.errors import UserError
from flexidit_jax.convert.pixart_pipeline import Beside, beside


@pytest.fixture
def scheduled(pixart_pipeline: Path, tmp_path: Path) -> Any:
    """Writes the pipeline without its text encoder, with a scheduler of so many words."""

    def write(**words: Any) -> Path:
        shutil.copytree(pixart_pipeline / "transformer", tmp_path / "transformer")
        (tmp_path / "scheduler").mkdir()
        config = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
        (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps({**config, **words}))
        return tmp_path

    return write


@pytest.mark.parametrize(("kind", "length"), [("PixArtAlphaPipeline", 120), ("PixArtSigmaPipeline", 300), ("?", None)])
def test_its_class_says_how_long_texts_are(tmp_path: Path, kind: str, length: int | None) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    assert beside(tmp_path, str(tmp_path)) == Beside(None, length, None)


def test_its_text_encoder_is_there_or_at_the_hub(pixart_pipeline: Path, tmp_path: Path) -> None:
    assert beside(pixart_pipeline, str(pixart_pipeline)).text == {"name": "t5", "path": str(pixart_pipeline)}
    shutil.copy(pixart_pipeline / "model_index.json", tmp_path)
    assert beside(tmp_path, str(tmp_path)).text is None
    assert beside(tmp_path, "hf:me/pixart@main").text == {"name": "t5", "path": "hf:me/pixart@main"}
    (tmp_path / "model_index.json").write_text('{"text_encoder": [null, null]}')
    (tmp_path / "text_encoder").mkdir()  # of a snapshot, which holds what was fetched of any revision
    assert beside(tmp_path, "hf:me/pixart@main").text is None


def test_its_betas_are_those_of_the_process(scheduled: Any) -> None:
    process = fd.load(scheduled(beta_end=0.03, solver_order=2, prediction_type="epsilon")).process
    assert (process.steps, process.beta_start, process.beta_end) == (1000, 1e-4, 0.03)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"prediction_type": "v_prediction"},
            "says prediction_type is 'v_prediction', and a PixArt that is read has 'ep",
        ),
        (
            {"beta_schedule": "scaled_linear"},
            "says beta_schedule is 'scaled_linear', and a PixArt that is read has 'lin",
        ),
        ({"beta_end": "0.02"}, "must say beta_end as a number, got '0.02'"),
    ],
)
def test_another_process_is_refused(scheduled: Any, words: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"scheduler_config\.json {re.escape(message)}"):
        fd.load(scheduled(**words))


def test_a_length_that_is_said_holds(scheduled: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = scheduled()
    assert fd.load(folder).model.conditioner.length == 300
    assert capsys.readouterr().err == (
        "note: no file says how long texts are: up to 300 tokens are read, as PixArt-Sigma reads them; of a"
        " PixArt-alpha say length=120\n"
    )
    (folder / "model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
    assert fd.load(folder).model.conditioner.length == 120
    assert fd.load(folder, length=50).model.conditioner.length == 50
    assert capsys.readouterr().err == ""
