"""Training that begins with a PixArt: weak modes are added, what stands for no text stays."""

from __future__ import annotations

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
