"""What the folder of a pipeline says of its parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.convert.pipeline import class_of, has_encoder, index_of


def test_an_index_may_be_missing(tmp_path: Path) -> None:
    assert index_of(tmp_path) == {}
    (tmp_path / "model_index.json").write_text('{"vae": ["diffusers", "AutoencoderKLWan"], "second": [null, null]}')
    index = index_of(tmp_path)
    assert [class_of(index, part) for part in ("vae", "second", "first")] == ["AutoencoderKLWan", None, None]
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(UserError, match=r"model_index\.json is not valid JSON"):
        index_of(tmp_path)


def test_an_encoder_is_there_or_at_the_hub(tmp_path: Path) -> None:
    assert not has_encoder(tmp_path, str(tmp_path), "UMT5EncoderModel")
    (tmp_path / "model_index.json").write_text('{"text_encoder": ["transformers", "UMT5EncoderModel"]}')
    assert has_encoder(tmp_path, "hf:me/wan@main", "UMT5EncoderModel")
    assert not has_encoder(tmp_path, "hf:me/wan@main", "T5EncoderModel")
    assert not has_encoder(tmp_path, str(tmp_path), "UMT5EncoderModel")
    (tmp_path / "text_encoder").mkdir()
    assert has_encoder(tmp_path, str(tmp_path), "UMT5EncoderModel")
