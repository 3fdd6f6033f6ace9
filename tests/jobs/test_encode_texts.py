"""`--mode=encode` of captioned images of two shapes: a stage over kept records runs neither VAE nor text encoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

import flexidit_jax as fd
from flexidit_jax.codecs import sd_vae
from flexidit_jax.common.cluster import processes
from flexidit_jax.common.config import load_config
from flexidit_jax.data import synthetic
from flexidit_jax.data.latents import TRAIN
from flexidit_jax.data.latents import Dataset as Latents
from flexidit_jax.data.text_features import TextFeatures
from flexidit_jax.experiment import captions
from flexidit_jax.experiment import texts as reading
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.jobs import encode, train
from flexidit_jax.main import main
from flexidit_jax.text import t5

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
SHAPES = ((1, 32, 32, 3), (1, 16, 64, 3))
CAPTIONS = [
    ("a red apple", "an apple"),
    ("two dogs play",),
    ("rain",),
    ("a red apple",),
    ("two dogs play", "rain", "mud"),
]


class Captioned(list):
    def __init__(self, held_out: bool = False) -> None:
        rng = np.random.default_rng(7 if held_out else 0)
        self.bins, self.texts = np.array([0, 1, 1, 0, 1]), CAPTIONS
        for own, texts in zip(self.bins, self.texts, strict=True):
            text = {"text": texts[0]} if held_out else {"texts": texts}
            self.append({"x": rng.uniform(-1, 1, SHAPES[own]).astype(np.float32), "size": np.float32(own), **text})


class Dataset:
    shape, shapes, flip = SHAPES[0], SHAPES, False

    def source(self) -> Captioned:
        return Captioned()

    def held_out(self) -> Captioned:
        return Captioned(held_out=True)

    def augment(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        return {"x": record["x"], "size": record["size"], "text": record["texts"][rng.integers(len(record["texts"]))]}


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch, vae_folder: Path, pixart_pipeline: Path, tmp_path: Path) -> ConfigDict:
    """Two steps over records that are kept in `tmp_path / "kept"`."""
    Dataset.__module__ = synthetic.__name__
    monkeypatch.setattr(synthetic, "Dataset", Dataset)
    made = load_config(f"{ROOT / 'configs' / 'digits.py'}:smoke")
    made.dataset = {"name": "latents", "path": str(tmp_path / "kept"), "of": {"name": "synthetic"}}
    made.codec = {"name": "sd_vae", "path": str(vae_folder)}
    made.text = {"name": "t5", "path": str(pixart_pipeline), "dtype": "float32"}
    words = {"name": "text", "features": 32, "length": 10, "null_length": 1, "drop_rate": 0.5}
    model = {"latent": (1, 4, 4, 4), "patch": 2, "width": 36, "depth": 1, "num_heads": 3}
    made.model = {**model, "modulation": "single", "span": 2.0, "conditioner": words}
    made.train.batch, made.train.checkpoint_every = 4, 2
    made.train.stages = ({"patches": (2,), "steps": 4, "learning_rate": 1e-3},)
    made.sample.labels = None
    made.report = made.evaluate = made.search = None
    made.encode = {"shard": 2, "batch": 2, "dtype": "float32", "held_out": True}
    return made


def test_latents_and_captions_are_kept(config: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert encode.run(config, tmp_path / "run") == 0
    folder = tmp_path / "kept"
    line = "5 images of 524 to 528 bytes with 5 captions and held out 5 images of 524 to 528 bytes with 5 captions"
    assert f"written: {folder}, {line}" in capsys.readouterr().out
    assert json.loads((folder / TRAIN / "16x64" / "manifest.json").read_text())["bins"] == {"32x32": 2, "16x64": 3}
    codec, encoder = sd_vae.Codec(str(config.codec.path)), t5.Encoder(config.text.path, length=10, dtype="float32")
    kept, images = Latents(str(folder), {"name": "synthetic"}), Captioned()
    records, order = kept.source(), [0, 3, 1, 2, 4]
    np.testing.assert_array_equal(records.bins, images.bins[order])
    for record, number in zip(records, order, strict=True):
        mean, std = codec.moments(images[number]["x"][None])
        np.testing.assert_allclose(record["mean"], mean[0], atol=1e-5)
        np.testing.assert_allclose(record["std"], std[0], atol=1e-5)
        assert record["size"] == images[number]["size"]
        wanted = encoder.encode(list(images.texts[number]))
        drawn = [kept.augment(record, np.random.default_rng(seed)) for seed in range(12)]
        seen = {int(np.argmin(np.abs(wanted["tokens"] - one["tokens"]).max((1, 2)))) for one in drawn}
        assert seen == {*range(len(images.texts[number]))}  # every one of its captions
        for one in drawn:
            assert one.keys() == {"mean", "std", "size", "tokens", "mask"}
            near = int(np.argmin(np.abs(wanted["tokens"] - one["tokens"]).max((1, 2))))
            np.testing.assert_allclose(one["tokens"], wanted["tokens"][near], atol=1e-5)
            np.testing.assert_array_equal(one["mask"], wanted["mask"][near])
    held = kept.held_out()
    first = encoder.encode([CAPTIONS[number][0] for number in order])
    np.testing.assert_allclose(np.stack([record["tokens"] for record in held]), first["tokens"], atol=1e-5)
    np.testing.assert_array_equal(held.bins, records.bins)
    assert encode.run(config, tmp_path / "run") == 0
    assert "all there already" in capsys.readouterr().out


def test_training_on_them_needs_neither_encoder(
    config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(fd.UserError, match=r"^no latents in .*kept/train; the same command with --mode=encode makes"):
        train.run(config, tmp_path / "run")
    assert encode.run(config, tmp_path / "run") == 0
    config.text = None
    nothing = property(lambda self: pytest.fail("the VAE is read"))
    monkeypatch.setattr(sd_vae.Codec, "_params", nothing, raising=False)
    sizes: list[tuple[int, ...]] = []
    drawn = train.latents_of
    monkeypatch.setattr(train, "latents_of", lambda *args: sizes.append((x := drawn(*args)).shape) or x)
    assert train.run(config, tmp_path / "run") == 0
    assert {*sizes} == {(4, 1, 4, 4, 4), (4, 1, 2, 8, 4)}
    config.model.conditioner.length = 12
    with pytest.raises(fd.UserError, match=r"holds features of another text encoder: length is 10 there, 12 here;"):
        train.run(config, tmp_path / "other")


def test_a_stop_among_captions_costs_no_latents(
    config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = reading.keep
    monkeypatch.setattr(encode, "keep", lambda *args: None)
    monkeypatch.setattr(encode.SharedStop, "status", 143)
    assert encode.run(config, tmp_path / "run") == 143
    assert f"{tmp_path / 'kept'}: stopped, 10 of 10 images are there; the same command" in capsys.readouterr().out
    monkeypatch.setattr(encode, "keep", whole)
    assert encode.run(config, tmp_path / "run") == 0
    assert f"written: {tmp_path / 'kept'}, 5 images" in capsys.readouterr().out
    assert TextFeatures(tmp_path / "kept" / TRAIN / "texts").prompts == [
        "a red apple",
        "an apple",
        "two dogs play",
        "rain",
        "mud",
    ]


def test_a_shape_that_is_missing_is_named(config: ConfigDict, tmp_path: Path) -> None:
    assert encode.run(config, tmp_path / "run") == 0
    folder = tmp_path / "kept" / TRAIN / "16x64"
    (folder / "manifest.json").unlink()
    with pytest.raises(fd.UserError, match=rf"^no latents in {folder}; the same command with --mode=encode makes"):
        Latents(str(tmp_path / "kept"), {"name": "synthetic"}).source()
    other = folder.with_name("32x32") / "manifest.json"
    other.write_text(json.dumps(json.loads(other.read_text()) | {"bins": 2}))
    with pytest.raises(fd.UserError, match=rf"^no latents in {folder.parent}; the same command with --mode=encode"):
        Latents(str(tmp_path / "kept"), {"name": "synthetic"}).source()


def test_latents_of_other_sizes_are_neither_joined_nor_read(
    config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert encode.run(config, tmp_path / "run") == 0
    folder, files = tmp_path / "kept", sorted((tmp_path / "kept").rglob("*"))
    monkeypatch.setattr(Dataset, "shapes", (SHAPES[0], (1, 64, 16, 3)))
    with pytest.raises(fd.UserError, match=rf"^{folder}/train holds latents of 16x64, and dataset\.of has no data of"):
        Latents(str(folder), {"name": "synthetic"}).source()
    monkeypatch.setattr(Dataset, "source", lambda self: [{"x": np.zeros(SHAPES[0], np.float32)}])
    with pytest.raises(fd.UserError, match=rf"^{folder}/train .* of 32x32, 16x64, and these are of one size; name"):
        encode.run(config, tmp_path / "run")
    assert sorted(folder.rglob("*")) == files


def test_latents_of_one_size_are_not_joined_by_others(config: ConfigDict, tmp_path: Path) -> None:
    folder = tmp_path / "kept" / TRAIN
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text('{"num": 1, "shard": 2, "record": [], "dataset": {}, "codec": {}}')
    with pytest.raises(fd.UserError, match=rf"^{folder} holds latents of one size, and these are of 32x32, 16x64;"):
        encode.run(config, tmp_path / "run")


def test_features_that_are_damaged_are_made_again(
    config: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert encode.run(config, tmp_path / "run") == 0
    folder = tmp_path / "kept" / TRAIN / "texts"
    sound, file = TextFeatures(folder), folder / "shards" / "000001.array_record"
    content, wanted = bytearray(file.read_bytes()), sound[2]
    content[content.index(wanted.tobytes())] ^= 4  # one bit
    file.write_bytes(content)
    with pytest.raises(fd.UserError, match=rf"^{file} is damaged \(.*the same command with --mode=encode makes them"):
        TextFeatures(folder)[2]
    capsys.readouterr()
    assert encode.run(config, tmp_path / "run") == 0
    out = capsys.readouterr().out
    assert f"{file} is damaged (" in out and f"{folder}: resuming, 3 of 5 texts are there" in out
    np.testing.assert_array_equal(TextFeatures(folder)[2], wanted)


def test_features_of_another_encoder_are_refused_before_anything_is_read(
    config: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.text = {"name": "hashed_words", "width": 32, "seed": 0}
    assert encode.run(config, tmp_path / "run") == 0
    config.text.seed = 1
    monkeypatch.setattr(encode, "damaged", lambda *args: pytest.fail("latents are read"))
    with pytest.raises(fd.UserError, match=r"texts holds features made with other words: encoder is 'hashed_words of"):
        encode.run(config, tmp_path / "run")
    with pytest.raises(fd.UserError, match=r"encoder is 'hashed_words of seed 0' there, 'hashed_words of seed 1' here"):
        train.run(config, tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoints").exists()
    monkeypatch.setattr(processes, "first", lambda: False)  # whose files are large: one of several reads them
    assert captions.reader(build_experiment(config), {"tokens": 0, "mask": 0})


def test_a_folder_with_captions_is_encoded_in_bins(config: ConfigDict, tmp_path: Path) -> None:
    """Pictures of three sizes, one of them damaged: its record is another one, with that one's captions."""
    folder, rng = tmp_path / "pictures", np.random.default_rng(3)
    folder.mkdir()
    pictures = [((64, 64), "a square"), ((128, 32), "wide"), ((80, 72), "two"), ((70, 70), "x")]
    for number, (size, text) in enumerate(pictures):
        picture = rng.integers(0, 256, (*size[::-1], 3)).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(text)
    damaged = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(damaged[: len(damaged) // 2])
    words = {"size": 64, "bins": True, "unit": 16, "max_corrupt": 0.3}
    config.dataset.of = {"name": "captioned", "path": str(folder), **words}
    config.model.latent, config.encode.held_out = (1, 8, 8, 4), False
    assert encode.run(config, tmp_path / "run") == 0
    kept = build_experiment(config).dataset
    prompts = kept.features.prompts
    assert prompts == ["a square", "wide", "two", "x"]
    shapes = {record["mean"].shape[1:3]: [prompts[n] for n in record["texts"]] for record in kept.source()}
    assert shapes.keys() == {(8, 8), (4, 16)} and shapes[4, 16] == ["wide"]
    texts = sorted(prompts[record["texts"][0]] for record in kept.source())
    assert texts in (["a square", "a square", "two", "wide"], ["a square", "two", "two", "wide"])  # none is "x"
    assert train.run(config, tmp_path / "run") == 0


def test_prompts_that_are_typed_are_what_is_encoded(config: ConfigDict, tmp_path: Path) -> None:
    out, scenes = tmp_path / "texts", ROOT / "configs" / "scenes.py"
    words = [f"--config={scenes}:smoke", f"--workdir={tmp_path / 'run'}", "--mode=encode", f"--out={out}"]
    assert main([*words, "--prompts=a bold two above a faint five"]) == 0
    assert TextFeatures(out).prompts == ["a bold two above a faint five"]
    config.sample.prompts = ("a cat",)  # which is for sampling
    assert encode.run(config, tmp_path / "run") == 0
    assert (tmp_path / "kept" / TRAIN / "32x32").is_dir()
