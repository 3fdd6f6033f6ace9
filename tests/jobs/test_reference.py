"""`--mode=reference`: statistics once, of a dataset or of any images, in ADM's form; features are pixels here."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from flexidit_jax.common.array_files import ArrayFile
from flexidit_jax.data.synthetic import Dataset
from flexidit_jax.evaluation import extraction
from flexidit_jax.experiment.sections import Referencing
from flexidit_jax.jobs.reference import CONFIG
from flexidit_jax.main import main
from flexidit_jax.metrics.moments import BLOCK, Moments

ROOT = Path(__file__).parents[2]
WAVES = f"--config={ROOT / 'configs' / 'imagenet256.py'}:smoke"
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (50, 4, 4, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pixel_features: SimpleNamespace) -> SimpleNamespace:
    """An empty folder, and what the network sees."""
    monkeypatch.chdir(tmp_path)
    np.savez("images.npz", arr_0=IMAGES)
    return pixel_features


def run(*words: str) -> int:
    return main(["--mode=reference", *words])


def pool(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32)[:, :6] / 255


def test_images_of_anyone(here: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--config.reference.images=images.npz", "--config.reference.keep=9", "--out=stats.npz"
    assert run(*words) == 0
    assert capsys.readouterr().out == "written: stats.npz, statistics of 50 images, with 9 of them\n"
    found, expected = dict(np.load("stats.npz")), Moments.of(pool(IMAGES))
    np.testing.assert_array_equal(found["mu"], expected.mean)
    np.testing.assert_array_equal(found["sigma"], expected.covariance)
    assert found["mu_s"].shape == (4,) and found["arr_0"].shape == (9, 4, 4, 3)
    number = [int(np.flatnonzero((image == IMAGES).all((1, 2, 3)))[0]) for image in found["arr_0"]]
    assert number == sorted(set(number)) and number != list(range(9))
    words_there = json.loads(str(found["words"]))
    assert [words_there[key] for key in ("images", "size", "remarks")] == [50, [4, 4], []]
    seen = here.images
    assert run(*words) == 0
    assert capsys.readouterr().out == "all there already: stats.npz\n" and here.images == seen
    assert run(*words, "--config.reference.features.convention=clean") == 2
    assert capsys.readouterr().err == (
        "error: stats.npz is there, and holds others: extractor.convention is 'adm' there, 'clean' here; name another"
        " --out\n"
    )
    command = ["--mode=evaluate", "--samples=images.npz", "--reference=stats.npz"]
    assert main(command) == 0
    scores = json.loads(Path("runs/evaluate/evaluation/evaluation.json").read_text())["rows"][0]["scores"]
    assert scores["fid"]["value"] < 1e-9 and scores["recall"]["value"] == 1
    assert [path.name for path in Path().glob("stats*")] == ["stats.npz"]
    assert main([*command, "--config.evaluate.features.convention=clean"]) == 2
    assert capsys.readouterr().err == (
        "error: stats.npz was made with convention 'adm', and samples are compared with 'clean'; make both alike\n"
    )


def test_a_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("train", "held_out"):
        words = f"--config.reference.part={part}", f"--out={part}.npz", "--config.reference.keep=0"
        assert run(WAVES, "--config.dataset.records=30", *words) == 0
    assert "written: train.npz, statistics of 30 images\n" in capsys.readouterr().out
    waves = Dataset(shape=(1, 16, 16, 3), classes=1000, records=30)
    for part, records in (("train", waves.source()), ("held_out", waves.held_out())):
        images = np.stack([np.clip(127.5 * record["x"][0] + 128, 0, 255).astype(np.uint8) for record in records])
        np.testing.assert_array_equal(ArrayFile(Path(f"{part}.npz")).read("mu"), Moments.of(pool(images)).mean)
        assert "arr_0" not in ArrayFile(Path(f"{part}.npz"))


def test_the_images_that_latents_are_made_of() -> None:
    config = f"--config={ROOT / 'configs' / 'imagenet256_latents.py'}:smoke"
    assert run(config, "--config.reference.keep=2", "--config.reference.part=held_out", "--out=stats.npz") == 0
    assert np.load("stats.npz")["arr_0"].shape == (2, 64, 64, 3)
    Path("three.py").write_text(
        "from ml_collections import ConfigDict\n\n\ndef get_config():\n    return ConfigDict({'dataset': 3})\n"
    )
    assert run("--config=three.py") == 2


def test_it_goes_on_after_a_kill(here: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "RECORDED", BLOCK)
    many = RNG.integers(0, 256, (3 * BLOCK, 4, 4, 3), dtype=np.uint8)
    np.savez("many.npz", arr_0=many)
    words = "--config.reference.images=many.npz", "--config.reference.keep=5", "--out=stats.npz"
    add = extraction.MomentStream.add

    def killed(stream: extraction.MomentStream, features: np.ndarray) -> None:
        if stream.count >= 2 * BLOCK:
            raise KeyboardInterrupt
        add(stream, features)

    monkeypatch.setattr(extraction.MomentStream, "add", killed)
    assert run(*words) == 130
    assert not Path("stats.npz").exists()
    monkeypatch.setattr(extraction.MomentStream, "add", add)
    here.images = 0
    assert run(*words) == 0
    assert here.images == BLOCK + 1  # and a probe
    np.testing.assert_array_equal(np.load("stats.npz")["sigma"], sum_of_blocks(many).covariance)
    assert not Path("stats.npz.part").exists()


def test_sigterm_and_the_same_command_again(here: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    words = "--config.reference.images=images.npz", "--config.reference.batch=4", "--out=stats.npz"
    here.stop = 1 + 32
    assert run(*words, "--stopped-status=75") == 75
    assert capsys.readouterr().out == "stopped, 32 of 50 images are done; the same command goes on\n"
    assert not Path("stats.npz").exists()
    here.stop = None
    assert run(*words) == 0


def sum_of_blocks(images: np.ndarray) -> Moments:
    first, *others = (Moments.of(pool(images[begin : begin + BLOCK])) for begin in range(0, len(images), BLOCK))
    return sum(others, start=first)


def test_the_config_of_its_own_is_what_there_is_to_say() -> None:
    assert CONFIG["reference"] == vars(Referencing())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("", "no images are named; --config.reference.images=DIR, or a --config with a dataset would do"),
        ("images=images.npz --out=stats", "--out=stats is written as one .npz file; name such a file"),
        ("images=images.npz --out=images.npz", "images.npz is there, and holds others: features is None there, 'inc"),
        ("images=one.npz", "one.npz holds 1 image, and a covariance is one of two or more"),
        ("images=images.npz keep=-1", "reference.keep and reference.seed are 0 or more, got -1 and 0"),
        ("images=images.npz batch=0", "reference.batch must be positive, got 0"),
        ("part=trian", "no reference.part 'trian'; did you mean 'train'?"),
        ("features.name=inceptoin", "no 'inceptoin' in features/; did you mean 'inception'?"),
        ("features.name=mlp_classifier", "reference.features: mlp_classifier is fitted on data; inception has weights"),
        (f"{WAVES} crop=adm side=8", "reference.crop is for reference.images; a dataset has its own crop and size"),
        (WAVES.replace("imagenet256", "digits"), "features are of single colour images, and those of dataset 'digits'"),
    ],
)
def test_one_line(words: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez("one.npz", arr_0=IMAGES[:1])
    before = {*Path().iterdir()}
    flags = [word if word.startswith("--") else f"--config.reference.{word}" for word in words.split()]
    assert run(*flags) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"error: {says}") and said.count("\n") == 1
    assert {*Path().iterdir()} - {Path("runs")} == before
    assert not [*Path().rglob("*.npz.part")]
