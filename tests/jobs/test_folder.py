"""Training on a folder of class folders, corrupt files among them, from the real config shrunk."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from flexidit_jax.common.cluster import messages as telling
from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.config import load_config, override
from flexidit_jax.convert.run_weights import load_weights
from flexidit_jax.experiment.experiment import Experiment, build_experiment
from flexidit_jax.main import main
from flexidit_jax.runs.checkpoints import read_meta

CONFIG = Path(__file__).parents[2] / "configs" / "folder.py"


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """Twelve images in three classes, one of them cut short, and the smoke config reading them."""
    for i in range(12):
        file = tmp_path / "images" / f"class{i % 3}" / f"{i:02d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (24, 20, 3), np.uint8)
        Image.fromarray(pixels).save(file)
    file = tmp_path / "images" / "class1" / "04.jpg"
    file.write_bytes(file.read_bytes()[:-99])
    (tmp_path / "small.py").write_text(
        "import runpy\n\n\n"
        "def get_config():\n"
        f"    get_config = runpy.run_path({str(CONFIG)!r})['get_config']\n"
        "    config, dataset = get_config('smoke'), get_config().dataset\n"
        "    config.dataset = dataset\n"
        "    config.dataset.size, config.dataset.path = 16, 'images'\n"
        "    config.dataset.classes = config.model.conditioner.classes = 3\n"
        "    config.model.depth, config.train.stages[0]['patches'] = 1, (2,)\n"
        "    return config\n"
    )
    return ["--config=small.py"]


@pytest.mark.slow
def test_a_run_skips_what_is_corrupt_and_resumes_anywhere(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    counted = ["--config.dataset.classes=None", "--config.model.conditioner.classes=None"]
    assert main([*words, *counted, "--workdir=run"]) == 0
    said = capsys.readouterr()
    line = "corrupt, skipped (1 of at most 1): images/class1/04.jpg (image file is truncated"
    assert said.out.count(line) == 1 and line not in said.err  # six batches of eight, four epochs: once
    (tmp_path / "run" / "checkpoints" / "6").rename(tmp_path / "6")
    (tmp_path / "images").rename(tmp_path / "moved")
    (tmp_path / "moved" / "class1" / "04.jpg").rename(tmp_path / "moved" / "class1" / "05.jpg")
    assert main([*words, "--workdir=run", "--config.dataset.path=moved"]) == 2
    assert capsys.readouterr().err == (
        "error: --workdir=run was trained on images of other names or captions than the dataset has now; go on with"
        " the same images, or train on these in another --workdir with --config.init_from=run\n"
    )
    assert recorded_path(tmp_path) == "images"
    (tmp_path / "moved" / "class1" / "05.jpg").rename(tmp_path / "moved" / "class1" / "04.jpg")
    assert main([*words, "--workdir=run", "--config.dataset.path=moved", "--config.train.workers=0"]) == 0
    assert capsys.readouterr().out.count("corrupt, skipped (1 of at most 1): moved/class1/04.jpg") == 1
    assert recorded_path(tmp_path) == "moved"
    assert read_meta(tmp_path / "run" / "checkpoints" / "6")["data"] == {"next_index": 6}
    unbroken, resumed = (load_weights(step)[1] for step in (tmp_path / "6", tmp_path / "run" / "checkpoints" / "6"))
    jax.tree.map(np.testing.assert_array_equal, resumed, unbroken)


def recorded_path(folder: Path) -> str:
    return json.loads((folder / "run" / "config.json").read_text())["dataset"]["path"]


def test_classes_are_counted_where_the_config_says_none(words: list[str], tmp_path: Path) -> None:
    def built(**dataset: object) -> Experiment:
        config = load_config(str(CONFIG))
        override(config, "dataset.path", str(tmp_path / "images"))
        override(config, "dataset.classes", "None")
        if dataset:
            config.dataset = {**dataset, "of": config.dataset.to_dict()}
        return build_experiment(config)

    for experiment in (built(), built(name="latents", path="latents")):
        section = experiment.raw["dataset"].get("of", experiment.raw["dataset"])
        assert experiment.model.conditioner.classes == experiment.dataset.classes == section["classes"] == 3
        assert experiment.raw["model"]["conditioner"]["classes"] == 3


def test_refusals_come_before_anything_is_written(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for word, message in {
        "dataset.path=away": "dataset.path=away cannot be listed (No such file or directory); it must hold one folder",
        "train.workers=-1": "train.workers must be at least 0, got -1",
        "dataset.classes=4": "model.conditioner.classes is 3, but the dataset has 4",
        "dataset.max_corrupt=2.0": "dataset.max_corrupt is a share in [0, 1), such as 0.001, got 2.0",
        "dataset.validation=away": "dataset.validation=away cannot be listed (No such file or directory); it must",
        "dataset.held_out_share=0.02": "no image of images is kept from training (dataset.held_out_share=0.02); set",
        "dataset.path=None": "config key 'dataset.path' must be str, got None",
    }.items():
        assert main([*words, "--workdir=run", f"--config.{word}"]) == 2
        assert capsys.readouterr().err.startswith(f"error: {message}")
    nobody = [f"--config.{key}=None" for key in ("dataset.classes", "model.conditioner.classes")]
    assert main([*words, "--workdir=run", "--config.dataset.path=away", *nobody]) == 2
    assert capsys.readouterr().err.endswith("; where the folder is not, dataset.classes says how many there are\n")
    four = [*words, "--workdir=run", "--config.dataset.classes=4", "--config.model.conditioner.classes=4"]
    assert main(four) == 2
    assert capsys.readouterr().err == (
        "error: dataset.classes is 4, but images has 3 class folders; dataset.classes=None counts them\n"
    )
    assert not (tmp_path / "run").exists()


def test_processes_that_find_other_images_are_refused(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = "the hash of all images' names"
    monkeypatch.setattr(cluster, "name", "process {}".format)
    monkeypatch.setattr(telling, "gathered", lambda what, told: [told, told | {name: '"other"'}])
    assert main([*words, "--workdir=run"]) == 2
    assert re.fullmatch(
        rf'error: {name} is "other" for process 1 and "[0-9a-f]{{16}}" for process 0; it must be the same\n',
        capsys.readouterr().err,
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_too_many_corrupt_images_end_a_run(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, "--workdir=run", "--config.dataset.max_corrupt=0.0"]) == 2
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert line.startswith(
        "error: 1 of 12 records are corrupt, more than dataset.max_corrupt=0 admits; the last is images/"
    )
