"""The model a job begins from, and what a run records of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexidit_jax.common import hub
from flexidit_jax.common.config import load_config
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.start import recorded

CONFIG = Path(__file__).parents[2] / "configs" / "imagenet256.py"
COMMITS = "0" * 40, "1" * 40


def test_names_at_the_hub_are_recorded_with_their_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(f"{CONFIG}:smoke")
    config.init_from = "me/model"
    config.codec = {"name": "sd_vae", "path": "me/vae"}
    config.model.latent, config.dataset.shape = (1, 4, 4, 4), (1, 32, 32, 3)
    experiment = build_experiment(config)
    assert recorded(experiment, tmp_path) == experiment.raw  # nothing was read
    read = {text: hub.Fetched(text, commit, tmp_path) for text, commit in zip(("me/model", "me/vae"), COMMITS)}
    monkeypatch.setattr(hub, "_fetched", {("cache", text, len): found for text, found in read.items()})
    words = recorded(experiment, tmp_path)
    assert words["init_from"] == f"hf:me/model@{COMMITS[0]}"
    assert words["codec"] == {**experiment.raw["codec"], "path": f"hf:me/vae@{COMMITS[1]}"}
    assert experiment.raw["init_from"] == "me/model"
    (tmp_path / "config.json").write_text(json.dumps(words))
    monkeypatch.setattr(hub, "_fetched", {})  # a resume reads neither
    assert recorded(experiment, tmp_path) == words
    (tmp_path / "config.json").write_text("[")
    assert recorded(experiment, tmp_path) == experiment.raw
