"""The model a job begins from: what `init_from` has learned, and what a run records of it."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

import flexidit_jax as fd
from flexidit_jax.codecs.identity import Codec
from flexidit_jax.common import hub
from flexidit_jax.common.config import load_config
from flexidit_jax.common.tensor_files import read_safetensors, write_safetensors
from flexidit_jax.common.types import Params
from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.start import first_params, recorded, trained_model
from flexidit_jax.models.build import init
from flexidit_jax.models.flexify import flexify
from flexidit_jax.training.sharding import make_mesh
from flexidit_jax.training.state import first_state

CONFIGS = Path(__file__).parents[2] / "configs"
COMMITS = "0" * 40, "1" * 40


def config(**stage: object) -> ConfigDict:
    """The smoke config of one stage."""
    made = load_config(f"{CONFIGS / 'digits.py'}:smoke")
    made.train.stages = ({"patches": (2, 4), "steps": 6, **stage},)
    made.report = None
    return made


def source(folder: Path, adapters: int | None) -> Params:
    """Saves a flexible model whose modes have learned something; returns its parameters."""
    model = build_experiment(config()).model
    stored = flexify(init(model, jax.random.key(9)), [(1, 2, 2), (1, 4, 4)], adapters)
    stored["modes"] = jax.tree.map(lambda leaf: leaf + 0.5, stored["modes"])
    fd.FlexiDiT(model, stored, Process(), Codec()).save(folder)
    return stored


def begun(made: ConfigDict, folder: Path) -> Params:
    made.init_from = str(folder)
    return first_params(build_experiment(made))(make_mesh())


@pytest.mark.parametrize("adapters", [None, 3])
def test_trained_modes_go_on_where_the_first_stage_has_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], adapters: int | None
) -> None:
    stored, made = source(tmp_path / "source", adapters), config(adapters=adapters)
    first = begun(made, tmp_path / "source")
    state = first_state(first, build_experiment(made).train.stages[0], optax.identity())
    together = state.params | state.frozen
    assert jax.tree.structure(together) == jax.tree.structure(stored)
    jax.tree.map(np.testing.assert_array_equal, together, stored)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("theirs", "stage", "says"),
    [
        (None, {"patches": (2,)}, "has modes 2, 4, and the first stage trains mode 2: it"),
        (None, {"adapters": 3}, "has modes 2, 4, and the first stage trains modes 2, 4 (adapters of rank 3): it"),
        (3, {"adapters": 2}, "has modes 2, 4 (adapters of rank 3), and the first stage trains modes 2, 4 (adapters of"),
        (3, {}, "has modes 2, 4 (adapters of rank 3), and the first stage trains modes 2, 4: it begins with patch 2"),
    ],
)
def test_trained_modes_that_go_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], theirs: int | None, stage: dict, says: str
) -> None:
    source(tmp_path / "source", theirs)
    first = begun(config(**stage), tmp_path / "source")
    assert "blocks" in first  # a plain DiT
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"note: init_from={tmp_path / 'source'} {says}")
    assert line.endswith("it begins with patch 2 alone, and what the other modes learned is left out")


def test_names_at_the_hub_are_recorded_with_their_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = load_config(f"{CONFIGS / 'imagenet256.py'}:smoke")
    made.init_from = "me/model"
    made.codec = {"name": "sd_vae", "path": "me/vae"}
    made.model.latent, made.dataset.shape = (1, 4, 4, 4), (1, 32, 32, 3)
    experiment = build_experiment(made)
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


def test_a_wan_is_of_the_size_of_the_config_and_its_parts_may_lie_apart(wan_pipeline: Path, tmp_path: Path) -> None:
    """Which no file of it tells; nor the heads where there is no config, nor what stands for no text."""
    made = load_config(f"{CONFIGS / 'pixart.py'}")
    file = tmp_path / "wan.safetensors"
    fd.load(wan_pipeline / "transformer").export(file)
    state, _ = read_safetensors(file)
    write_safetensors(file, state)  # without a word of the heads
    made.init_from = str(file)
    made.codec = {"name": "wan_vae", "path": str(wan_pipeline / "vae")}
    made.text = {"name": "umt5", "path": str(wan_pipeline), "length": 12}
    made.process = {"name": "flow", "shift": 8.0}
    text = {"name": "text", "features": 32, "length": 12, "mask": False, "null_length": 1, "null_mask": "own"}
    sizes = {"latent": (2, 4, 8, 4), "patch": (1, 2, 2), "width": 40, "depth": 2, "num_heads": 2, "mlp_ratio": 1.8}
    kind = {"modulation": "single", "positions": "rope", "qk_norm": "rms", "cross_norm": True, "time_features": 32}
    made.model = {**sizes, **kind, "learn_variance": False, "conditioner": text}
    made.train.stages = ({"patches": ((1, 2, 2), (2, 2, 2)), "steps": 6},)
    made.train.loss = {"name": "flow"}
    experiment = build_experiment(made)
    flex = trained_model(experiment, tmp_path)
    assert flex.model.latent == (2, 4, 8, 4) and flex.model.num_heads == 2 and flex.process.shift == 8.0
    assert flex.codec == experiment.codec and flex.text == experiment.text
    assert flex.model.conditioner.null_length == 1
    first = first_params(experiment)(make_mesh())
    np.testing.assert_array_equal(first["conditioner"]["null"], flex.params["trunk"]["conditioner"]["null"])
    made.model.latent = (2, 4, 8, 16)
    with pytest.raises(fd.UserError, match=r"^a latent must be \(frames, height, width, 4\) for this model, got"):
        trained_model(build_experiment(made), tmp_path)
