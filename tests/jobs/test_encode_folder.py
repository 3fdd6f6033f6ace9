"""Latents of a folder of images: the folder may move or go, and is not taken for another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flexidit_jax.common.config import load_config
from flexidit_jax.common.errors import UserError
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.jobs.encode import run

CONFIG = Path(__file__).parents[2] / "configs" / "imagenet256_latents.py"
SIDE = 32


def written(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two folders of class folders, of two images in each of two classes."""
    for part in ("train", "val"):
        for i in range(4):
            file = tmp_path / "photos" / part / f"class{i % 2}" / f"{part}{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (SIDE, SIDE), (60 * i, 90, 200 - 60 * i)).save(file)
    return tmp_path / "photos"


def test_latents_of_a_folder_stay_when_it_moves_and_not_when_it_is_another(
    photos: Path, tmp_path: Path, vae_folder: Path
) -> None:
    def built(path: str, validation: str) -> Any:
        config = load_config(f"{CONFIG}:smoke")
        with config.ignore_type(), config.unlocked():
            config.dataset.path = str(tmp_path / "out")
            words = {"path": str(photos / path), "validation": str(photos / validation)}
            config.dataset.of = {"name": "folder", "size": SIDE, "classes": 2, **words}
            config.codec.path, config.encode = str(vae_folder), {"held_out": True, "batch": 4}
            config.model.latent, config.model.conditioner.classes = (1, 4, 4, 4), 2
            config.model.conditioner.names = None
        return config

    def read(path: str, validation: str) -> list[int]:
        experiment = build_experiment(built(path, validation))
        experiment.check()
        return [len(part()) for part in (experiment.dataset.source, experiment.dataset.held_out)]

    assert run(built("train", "val"), tmp_path / "run") == 0
    before = written(tmp_path / "out")
    assert read("train", "val") == [4, 4]
    assert build_experiment(built("gone", "gone")).model.conditioner.names == ("class0", "class1")  # recorded with them
    (photos / "train").rename(photos / "moved")
    (photos / "val").rename(photos / "val2")
    assert run(built("moved", "val2"), tmp_path / "run") == 0
    assert written(tmp_path / "out") == before
    manifest = tmp_path / "out" / "train" / "manifest.json"
    recorded = json.loads(manifest.read_text())
    assert recorded.pop("names") == ["class0", "class1"]
    manifest.write_text(json.dumps(recorded))  # as before they were recorded
    assert run(built("moved", "val2"), tmp_path / "run") == 0
    assert written(tmp_path / "out") == before
    assert read("moved", "val2") == read("gone", "val2") == read("moved", "gone") == [4, 4]

    for path, validation, part in (("val2", "val2", "train"), ("moved", "moved", "held_out")):
        with pytest.raises(UserError, match=rf"^{tmp_path}/out/{part} holds latents made with other words: images is"):
            run(built(path, validation), tmp_path / "run")
        with pytest.raises(UserError) as caught:
            read(path, validation)
        assert str(caught.value) == (
            f"{tmp_path}/out/{part} holds latents of other images than those of dataset.of, whose names or captions"
            " differ; name those, or encode into another dataset.path"
        )
    ours = build_experiment(built("moved", "val2")).dataset
    assert ours.fingerprint() == ours.of.fingerprint() != ours.fingerprint(held_out=True)
    assert ours.fingerprint(held_out=True) == ours.of.fingerprint(held_out=True)
    other = build_experiment(built("moved", "moved"))
    other.check()
    assert len(other.dataset.source()) == 4  # what is held out is not trained on
