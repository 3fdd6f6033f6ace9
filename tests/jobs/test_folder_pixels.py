"""`configs/folder.py:pixels` on any folder: what is found is said, names are labels, and nothing else is wanted."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flexidit_jax as fd
from flexidit_jax.common.config import load_config
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.main import main

CONFIG = Path(__file__).parents[2] / "configs" / "folder.py"
SHRUNK = {
    "dataset.size": 8,
    "model.latent": (1, 8, 8, 3),
    "model.width": 16,
    "model.depth": 1,
    "model.num_heads": 2,
    "train.batch": 4,
    "train.workers": 0,
    "train.stages[0].steps": 2,
    "train.stages[0].warmup": 1,
    "train.stages[1].steps": 2,
    "train.stages[1].warmup": 1,
    "sample.steps": 2,
    "sample.batch": 4,
    "sample.labels": "Bee",
    "evaluate.samples": 8,
}
PIXELS = [f"--config={CONFIG}:pixels", "--workdir=run", *(f"--config.{key}={value}" for key, value in SHRUNK.items())]
FOUND = (
    "dataset: 9 images in 3 classes, none held out to evaluate with (dataset.held_out_share or dataset.validation does)"
    "; left out: 1 file of kind .heic (bee/phone.heic), 1 link to nothing (wasp/gone.png); no class: empty (no images)"
)


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three classes, one of them in deeper folders, beside what is no image."""
    monkeypatch.chdir(tmp_path)
    for i in range(9):
        name = ("ant/day{i}/x.png", "bee/{i}.png", "wasp/{i}.png")[i % 3].format(i=i)
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (12, 10, 3), np.uint8)).save(
            tmp_path / "images" / name
        )
    (tmp_path / "images" / "bee" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(64))
    (tmp_path / "images" / "wasp" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "images" / "empty").mkdir()
    return tmp_path / "images"


@pytest.mark.slow
def test_a_folder_is_trained_on_sampled_by_name_and_scored(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(status: int, *words: str) -> str:
        assert main([*PIXELS, *words]) == status
        text = capsys.readouterr()
        return text.err.splitlines()[-1] if status else text.out

    # ---------------------------------------------------------------- Trained
    assert said(0).count(FOUND) == 1
    record = tmp_path / "run" / "config.json"
    recorded = json.loads(record.read_text())
    assert recorded["dataset"]["classes"] == recorded["model"]["conditioner"]["classes"] == 3
    assert recorded["model"]["conditioner"]["names"] == ["ant", "bee", "wasp"]

    # ---------------------------------------------------------------- Sampled, the images gone
    images.rename(tmp_path / "away")
    assert said(0, "--mode=sample").splitlines()[1] == "labels: 1 (bee)"
    assert said(2, "--mode=sample", "--config.sample.labels=be") == (
        "error: no class is called 'be'; did you mean 'bee'?"
    )
    flex = fd.load("run")
    flex.save(tmp_path / "saved")
    label = fd.load(tmp_path / "saved").model.conditioner.parse(["wasp", None])["label"]
    np.testing.assert_array_equal(label, [2, 0])
    assert said(2).startswith("error: dataset.path=images cannot be listed (No such file or directory); it must hold")
    (tmp_path / "away").rename(images)

    # ---------------------------------------------------------------- Scored, where some are held out
    assert said(2, "--mode=evaluate") == (
        "error: no image of images is kept from training (dataset.held_out_share=0); set that to a larger share, or"
        " dataset.validation to a folder of the same class folders"
    )
    shutil.copytree(images, tmp_path / "val", symlinks=True)
    scored = said(0, "--mode=evaluate", "--config.dataset.validation=val")
    assert "dataset: 9 images in 3 classes; left out: " in scored and "; held out: 9 images in 3 classes;" in scored
    assert "\n8 samples, schedule 4:2 (" in scored

    # ---------------------------------------------------------------- Gone on with
    del recorded["model"]["conditioner"]["names"], recorded["dataset"]["max_pixels"]  # as before there were any
    record.write_text(json.dumps(recorded))
    assert "training is finished" in said(0)
    assert "training is finished" in said(0, "--config.dataset.max_pixels=300_000_000")  # as a refusal advises
    for file in (images / "bee").glob("*.png"):
        file.unlink()
    assert "dataset.classes is 3 there, 2 here" in said(2)
    assert said(2, "--config.dataset.classes=3").endswith("no class: bee (no images), empty (no images)")


def test_all_that_is_missing_is_said_at_once_own_path_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in ([], ["--config.dataset.classes=None"], ["--mode=evaluate", "--config.dataset.classes=None"]):
        assert main([f"--config={CONFIG}", "--workdir=run", "--config.init_from=no.pt", *words]) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: dataset.path=images cannot be listed") and "; also, the VAE's weights we" in line
        assert line.count("dataset.path=images") == line.count("the VAE's weights") == 1
        assert ("; also, no.pt does not exist; give" in line) == (words == [])  # nobody counted its classes else
    assert list(tmp_path.iterdir()) == []


def test_names_of_the_config_stand_and_others_are_those_of_the_folder(images: Path) -> None:
    def names(**said: object) -> object:
        config = load_config(f"{CONFIG}:pixels")
        with config.model.conditioner.unlocked():
            config.model.conditioner.update(said)
        return build_experiment(config).model.conditioner.names

    assert names() == names(names=None) == ("ant", "bee", "wasp")
    assert names(names=["a", "b", "c"]) == ("a", "b", "c")
