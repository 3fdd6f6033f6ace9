"""Training that begins with a PixArt: weak modes are added, what stands for no text stays."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import flexidit_jax as fd
from flexidit_jax.common.config import load_config
from flexidit_jax.common.trees import flatten
from flexidit_jax.data import synthetic
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.start import first_params
from flexidit_jax.jobs import train
from flexidit_jax.models.flexify import flexify
from flexidit_jax.training.sharding import make_mesh

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden"
NULL = "trunk/conditioner/null"
CAPTIONS = ["a red apple", "two dogs play", "a caf\u00e9 at night", "rain"]
SHAPES = ((1, 16, 16, 4), (1, 8, 32, 4))


class Captioned(list):
    """Records of two sizes, with captions, or with what an encoder makes of them."""

    def __init__(self, encoder: Any = None) -> None:
        rng = np.random.default_rng(0)
        self.bins = np.arange(8) % 3 % 2
        super().__init__({"x": rng.normal(size=SHAPES[own]).astype(np.float32)} for own in self.bins)
        for record, caption in zip(self, CAPTIONS * 2, strict=True):
            made = {"text": caption}
            if encoder is not None:
                made = {key: value[0] for key, value in encoder.encode([caption]).items()}
            record.update(made)


@pytest.fixture
def texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records of the synthetic dataset have features of a text in place of a label."""

    class Dataset:
        def __init__(self, shape: tuple[int, ...]) -> None:
            self.shape = shape

        def source(self) -> list[dict[str, np.ndarray]]:
            rng = np.random.default_rng(0)
            mask = np.arange(10) < 6
            return [
                {
                    "x": rng.normal(size=self.shape).astype(np.float32),
                    "tokens": rng.normal(size=(10, 32)).astype(np.float32),
                    "mask": mask,
                }
                for _ in range(8)
            ]

    Dataset.__module__ = synthetic.__name__
    monkeypatch.setattr(synthetic, "Dataset", Dataset)


def config(source: Path) -> ConfigDict:
    """Two steps from a PixArt of texts of 10 tokens."""
    made = load_config(f"{ROOT / 'configs' / 'digits.py'}:smoke")
    made.init_from = str(source)
    made.dataset = {"name": "synthetic", "shape": (1, 16, 16, 4)}
    made.text = {"name": "t5", "path": str(source)}
    words = {"name": "text", "features": 32, "length": 10, "null_length": 1, "null_mask": "own", "drop_rate": 0.5}
    model = {"latent": (1, 16, 16, 4), "patch": 2, "width": 36, "depth": 2, "num_heads": 3}
    made.model = {**model, "modulation": "single", "span": 4.0, "conditioner": words}
    made.train.batch, made.train.checkpoint_every = 4, 2
    made.train.stages = ({"patches": (2, 4), "steps": 2, "learning_rate": 1e-3},)
    made.sample.labels = None
    made.report = made.evaluate = made.search = None
    return made


def test_it_trains_and_is_kept(texts: None, pixart_pipeline: Path, tmp_path: Path) -> None:
    assert train.run(config(pixart_pipeline), tmp_path) == 0
    begun = fd.load(tmp_path)
    source = fd.load(pixart_pipeline)
    assert begun.patches == ((1, 2, 2), (1, 4, 4))
    np.testing.assert_array_equal(flatten(begun.params)[NULL], flatten(source.params)[NULL])
    raw = fd.load(tmp_path, weights="raw").params
    first = flatten(jax.device_get(flexify(source.params, begun.patches)))
    moved = {path for path, leaf in flatten(raw).items() if not np.array_equal(leaf, first[path])}
    assert NULL not in moved and "trunk/blocks/cross_attention/k/kernel" in moved
    begun.save(tmp_path / "saved")
    again = fd.load(tmp_path / "saved")
    assert again.model == begun.model and again.text == begun.text
    jax.tree.map(np.testing.assert_array_equal, again.params, begun.params)


def test_captions_of_several_sizes_are_read_batch_by_batch(
    pixart_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dataset:
        shape, shapes, encoder = SHAPES[0], SHAPES, None

        def source(self) -> Captioned:
            return Captioned(self.encoder)

    Dataset.__module__ = synthetic.__name__
    monkeypatch.setattr(synthetic, "Dataset", Dataset)
    made = config(pixart_pipeline)
    made.dataset = {"name": "synthetic"}
    made.train.stages = ({"patches": (2, 4), "steps": 6, "learning_rate": 1e-3},)
    sizes: list[tuple[int, ...]] = []
    latents_of = train.latents_of
    monkeypatch.setattr(train, "latents_of", lambda *args: sizes.append((x := latents_of(*args)).shape) or x)
    assert train.run(made, tmp_path / "captions") == 0
    assert {*sizes} == {(4, *shape) for shape in SHAPES}
    ours = fd.load(tmp_path / "captions", weights="raw").params

    shutil.rmtree(tmp_path / "captions" / "checkpoints" / "6")  # as a kill after four steps leaves it
    del sizes[:]
    assert train.run(made, tmp_path / "captions") == 0 and len(sizes) == 2
    again = fd.load(tmp_path / "captions", weights="raw").params
    jax.tree.map(np.testing.assert_array_equal, ours, again)

    Dataset.encoder = build_experiment(made).text.__class__(str(pixart_pipeline), length=10)
    made.text = None
    assert train.run(made, tmp_path / "features") == 0
    theirs = fd.load(tmp_path / "features", weights="raw").params
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_pictures_are_told_their_own_size(
    pixart_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dataset:
        shape, shapes = SHAPES[0], SHAPES

        def source(self) -> Captioned:
            return Captioned()

    Dataset.__module__ = synthetic.__name__
    monkeypatch.setattr(synthetic, "Dataset", Dataset)
    made = config(pixart_pipeline)
    made.dataset, made.init_from = {"name": "synthetic"}, None
    made.model.update(depth=1, num_heads=2)
    made.model.conditioner.resolution = (128, 128)
    made.train.stages = ({"patches": (2,), "steps": 6, "learning_rate": 1e-3},)
    told: set[tuple[Any, ...]] = set()
    put = train.put_batch

    def seen(batch: dict[str, np.ndarray], mesh: Any) -> Any:
        if "resolution" in batch:
            told.update((*row, *ratio) for row, ratio in zip(batch["resolution"], batch["aspect_ratio"], strict=True))
        return put(batch, mesh)

    monkeypatch.setattr(train, "put_batch", seen)
    assert train.run(made, tmp_path / "run") == 0
    assert told == {(128, 128, 1), (64, 256, 0.25)}


def test_shapes_that_a_model_cannot_have_are_refused(pixart_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Dataset:
        shape, shapes = SHAPES[0], (*SHAPES, (1, 12, 20, 4))

    Dataset.__module__ = synthetic.__name__
    monkeypatch.setattr(synthetic, "Dataset", Dataset)
    made = config(pixart_pipeline)
    made.dataset = {"name": "synthetic"}
    assert build_experiment(made).model.latent == SHAPES[0]
    made.train.stages = ({"patches": (2, 8), "steps": 2},)
    with pytest.raises(fd.UserError, match=r"^patch 8 does not divide the latent 1x12x20 "):
        build_experiment(made)
    made.model.span = None
    with pytest.raises(fd.UserError, match=r"^a latent must be 16x16 for this model, whose positions count patches$"):
        build_experiment(made)
    made.model.update(span=4.0, latent=(1, 20, 12, 4))
    with pytest.raises(fd.UserError, match=r"make latents of \(1, 16, 16, 4\)$"):
        build_experiment(made)


def test_captions_that_nothing_reads_are_refused(
    pixart_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dataset:
        shape, records = SHAPES[0], Captioned()

        def source(self) -> list[dict[str, Any]]:
            return self.records

    Dataset.__module__ = synthetic.__name__
    monkeypatch.setattr(synthetic, "Dataset", Dataset)
    made = config(pixart_pipeline)
    made.dataset = {"name": "synthetic"}
    made.text = None
    with pytest.raises(fd.UserError, match=r"^this config has no text section, whose encoder reads prompts; give it"):
        train.run(made, tmp_path / "run")
    Dataset.records = [{"x": np.zeros(SHAPES[0], np.float32), "label": 3}]
    message = (
        r"^model\.conditioner 'text' reads 'tokens', which records of dataset 'synthetic' lack \(they have label, x\);"
    )
    with pytest.raises(fd.UserError, match=message + " one of captions would do"):
        train.run(made, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_previews_of_texts(texts: None, pixart_pipeline: Path, tmp_path: Path) -> None:
    made = config(pixart_pipeline)
    made.train.preview_every = 2
    made.sample.update(prompts=["a red apple"], steps=2)
    assert train.run(made, tmp_path / "run") == 0
    made.sample.prompts = None
    with pytest.raises(fd.UserError, match=r"^nothing is asked for; --prompts="):
        train.run(made, tmp_path / "other")


def test_from_scratch_no_text_is_an_empty_one(pixart_pipeline: Path) -> None:
    made = config(pixart_pipeline)
    made.dataset = made.init_from = None
    encoder = build_experiment(made).text
    experiment = build_experiment(made)
    null = first_params(experiment)(make_mesh())["conditioner"]["null"]
    found = type(encoder)(str(pixart_pipeline), length=10).encode([""])
    np.testing.assert_array_equal(null, found["tokens"][found["mask"]])
    made.model.conditioner.null_length = 2
    with pytest.raises(
        fd.UserError, match=r"null_length=2, and the encoder makes 1 token\(s\) of an empty text; set it"
    ):
        first_params(build_experiment(made))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"span": 8.0}, r"init_from=.* is not the model of this config: model\.span is 4\.0 there, 8\.0 here$"),
        ({"null_mask": "caption", "null_length": 10}, None),
        ({"null_length": 2}, r"model\.conditioner\.null_length is 1 there, 2 here$"),
        ({"null_length": 0}, r"^model\.conditioner\.drop_rate=0\.5 trains without a text, and null_length=0 has"),
    ],
)
def test_what_is_another_model_is_named(pixart_pipeline: Path, change: dict[str, Any], message: str | None) -> None:
    made = config(pixart_pipeline)
    made.dataset = None
    for key, value in change.items():
        (made.model if key == "span" else made.model.conditioner)[key] = value
    experiment = build_experiment(made)
    if message is None:
        assert first_params(experiment)(make_mesh())["conditioner"]["null"].shape == (10, 32)
        return
    with pytest.raises(fd.UserError, match=message):
        first_params(experiment)
