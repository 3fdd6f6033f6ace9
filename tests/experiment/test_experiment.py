"""A whole config: what of it does not fit another part."""

from __future__ import annotations

from pathlib import Path

import pytest

import flexidit_jax as fd
from flexidit_jax.common.config import load_config
from flexidit_jax.experiment.experiment import build_experiment

CONFIGS = Path(__file__).parents[2] / "configs"
CAPTIONS, CLASSES = f"{CONFIGS / 'scenes.py'}:smoke", f"{CONFIGS / 'digits.py'}:smoke"


@pytest.mark.parametrize(
    ("model", "data", "says"),
    [
        (CLASSES, CAPTIONS, "model.conditioner 'classes' is trained on classes, and dataset 'scenes' has none"),
        (CAPTIONS, CLASSES, "model.conditioner 'text' is trained on captions, and dataset 'digits' has none"),
    ],
)
def test_a_dataset_of_another_kind_is_refused(model: str, data: str, says: str) -> None:
    config = load_config(model)
    config.dataset = load_config(data).dataset
    with pytest.raises(fd.UserError, match=rf"^{says}$"):
        build_experiment(config)


def test_a_model_of_classes_is_built_without_a_dataset() -> None:
    config = load_config(CLASSES)
    config.dataset = config.report = config.evaluate = config.search = None
    experiment = build_experiment(config)
    assert experiment.dataset is None and experiment.model.conditioner.classes == 10
    with pytest.raises(fd.UserError, match=r"^config key 'config\.dataset' is None, so nothing can be trained on or"):
        experiment.wants_dataset()


def test_a_folder_that_nobody_can_count_is_named_with_all_that_is_missing(tmp_path: Path) -> None:
    config = load_config(CLASSES)
    config.dataset = {"name": "folder", "path": str(tmp_path / "none"), "size": 64}
    config.model.conditioner = {"name": "classes", "classes": None}
    config.model.latent, config.codec = (1, 8, 8, 4), {"name": "sd_vae", "path": str(tmp_path)}
    with pytest.raises(fd.UserError, match=rf"^dataset\.path={tmp_path}/none cannot be listed .*; also, the VAE's"):
        build_experiment(config)
