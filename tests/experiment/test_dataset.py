"""The dataset of a config: one without classes is left as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flexidit_jax.common.build import defaults_noted
from flexidit_jax.experiment.dataset import build_dataset, say_found


@pytest.mark.parametrize(
    "conditioner", [{"name": "text", "features": 8, "length": 4}, {"name": "classes", "classes": 3}]
)
def test_captioned_images_have_no_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], conditioner: dict[str, Any]
) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "0.png")
    (tmp_path / "0.txt").write_text("black")
    section = {"name": "captioned", "path": str(tmp_path), "size": 16}
    raw = {"dataset": dict(section), "model": {"conditioner": dict(conditioner)}}
    with defaults_noted() as noted:
        dataset = build_dataset(raw)
    assert raw == {"dataset": section, "model": {"conditioner": conditioner}}
    assert not hasattr(dataset, "classes") and noted["dataset.flip"] is False
    say_found(dataset)
    assert capsys.readouterr().out.startswith("dataset: 1 image with 1 caption, none held out")
