"""What lies beside the transformer of a Wan: in the folder of a pipeline, in that of its own repository, nowhere."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.codecs.wan_vae import Codec
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import read_safetensors, write_safetensors
from flexidit_jax.convert.read_model import files_of_model
from flexidit_jax.convert.wan_names import of_repository
from flexidit_jax.convert.wan_pipeline import beside, check_single
from flexidit_jax.diffusion.flow import Process

WEIGHTS = "diffusion_pytorch_model.safetensors"
TWO = "is a Wan 2.2, which has two transformers; a Wan 2.1 would do"


def copied(wan_pipeline: Path, folder: Path) -> Path:
    shutil.copytree(wan_pipeline / "transformer", folder / "transformer")
    return folder


def test_a_whole_pipeline(wan_pipeline: Path, tmp_path: Path) -> None:
    name = str(wan_pipeline)
    assert beside(wan_pipeline, name) == {
        "assumed": {"name": "flow", "shift": 5.0},
        "codec": {"name": "wan_vae", "path": name},
        "text": {"name": "umt5", "path": name},
    }
    assert beside(tmp_path, str(tmp_path)) == {"assumed": {"name": "flow", "shift": 3.0}, "codec": None, "text": None}
    shutil.copy(wan_pipeline / "model_index.json", tmp_path)
    assert beside(tmp_path, "hf:me/wan@main")["text"] == {"name": "umt5", "path": "hf:me/wan@main"}


def test_parts_that_lie_apart(wan_pipeline: Path, tmp_path: Path) -> None:
    """A lone transformer, in a file by the names of either, with the parts of a pipeline."""
    state, _ = read_safetensors(wan_pipeline / "transformer" / WEIGHTS)
    for prefix in ("", "model.diffusion_model."):
        tensors = {prefix + of_repository(name): array for name, array in state.items()}
        write_safetensors(tmp_path / "wan.safetensors", tensors, {"num_heads": "2"})
        parts = {"codec": wan_pipeline / "vae", "text": wan_pipeline}
        flex = fd.load(tmp_path / "wan.safetensors", length=12, **parts)
        assert flex.codec == Codec(str(wan_pipeline / "vae")) and flex.text.own_tables and flex.text.length == 12
        assert flex.model.conditioner.null_length == 1 and flex.model.num_heads == 2
        alone = fd.load(tmp_path / "wan.safetensors", length=12)
        assert alone.codec is alone.text is None


def test_the_folder_of_the_repository(wan_pipeline: Path, tmp_path: Path) -> None:
    """Its VAE and encoder lie in it as files of torch, whose content decides; one config is for all."""
    state, _ = read_safetensors(wan_pipeline / "transformer" / WEIGHTS)
    write_safetensors(tmp_path / WEIGHTS, {of_repository(name): array for name, array in state.items()})
    shutil.copy(wan_pipeline / "vae" / WEIGHTS, tmp_path / "Wan2.1_VAE.pth")
    shutil.copy(wan_pipeline / "text_encoder" / "model.safetensors", tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")
    shutil.copytree(wan_pipeline / "tokenizer", tmp_path / "google" / "umt5-xxl")
    config = {"_class_name": "WanModel", "model_type": "t2v", "dim": 40, "num_heads": 2, "num_layers": 2}
    config |= {"in_dim": 4, "out_dim": 4, "ffn_dim": 72, "freq_dim": 32, "text_len": 12, "eps": 1e-6, "text_dim": 32}
    config["patch_size"] = [1, 2, 2]  # which the codec, for whom it means another, does not read
    (tmp_path / "config.json").write_text(json.dumps(config))
    flex, whole = fd.load(tmp_path), fd.load(wan_pipeline, length=12)
    assert flex.model == whole.model and flex.process == Process(shift=3.0)
    for one, other in zip(flex.features(["a cat"]), whole.features(["a cat"]), strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(UserError, match=r"latent channels, and means and deviations are known of 16"):
        flex.codec.decode(np.ones((1, 2, 2, 2, 16)))  # those of the tiny one lie in a config that is not there
    assert files_of_model(["config.json", WEIGHTS, "Wan2.1_VAE.pth", "README.md"]) == [
        "Wan2.1_VAE.pth", "config.json", WEIGHTS,
    ]  # fmt: skip
    for change, said in (
        ({"model_type": "i2v"}, "says model_type is 'i2v', not 't2v'; a Wan 2.1 of texts would do"),
        ({"num_layers": 3}, "says num_layers is 3, but the weights are of a Wan with 2"),
        ({"text_len": "12"}, "config.json must say text_len as a positive whole number, got '12'"),
        ({"num_heads": 3}, "num_heads=3 is not an integer that divides the width 40"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(UserError, match=re.escape(said)):
            fd.load(tmp_path)


@pytest.mark.parametrize(
    ("words", "shift"),
    [({"flow_shift": 8}, 8.0), ({"shift": 12.0}, 12.0), ({}, 3.0), ({"prediction_type": "flow_prediction"}, 3.0)],
)
def test_the_shift_is_that_of_the_scheduler(
    wan_pipeline: Path, tmp_path: Path, words: dict[str, Any], shift: float
) -> None:
    folder = copied(wan_pipeline, tmp_path)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(words))
    assert fd.load(folder).process == Process(shift=shift)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"prediction_type": "epsilon"},
            "says prediction_type is 'epsilon', and a Wan that is read has 'flow_prediction'",
        ),
        ({"flow_shift": "3"}, "must say flow_shift as a positive number, got '3'"),
        ({"flow_shift": 0}, "must say flow_shift as a positive number, got 0"),
    ],
)
def test_another_scheduler_is_refused(tmp_path: Path, words: dict[str, Any], message: str) -> None:
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(words))
    with pytest.raises(UserError) as caught:
        beside(tmp_path, str(tmp_path))
    assert str(caught.value) == f"{tmp_path / 'scheduler' / 'scheduler_config.json'} {message}"


def test_one_of_two_transformers_is_refused_before_it_is_read(wan_pipeline: Path, tmp_path: Path) -> None:
    folder = copied(wan_pipeline, tmp_path / "two")
    (folder / "transformer" / WEIGHTS).write_bytes(b"")
    shutil.copytree(folder / "transformer", folder / "transformer_2")
    for path in (folder, folder / "transformer", folder / "transformer_2"):
        with pytest.raises(UserError) as caught:
            fd.load(path)
        assert str(caught.value) == f"{path} {TWO}"
    with pytest.raises(UserError, match=f"^it {TWO}$"):
        files_of_model(["transformer/config.json", f"transformer/{WEIGHTS}", "transformer_2/config.json"])


@pytest.mark.parametrize(
    "index", [{"boundary_ratio": 0.875}, {"transformer_2": ["diffusers", "WanTransformer3DModel"]}]
)
def test_an_index_tells_of_the_other_transformer(wan_pipeline: Path, tmp_path: Path, index: dict[str, Any]) -> None:
    folder = copied(wan_pipeline, tmp_path)
    (folder / "model_index.json").write_text(json.dumps(index))
    for path in (folder, folder / "transformer"):
        with pytest.raises(UserError) as caught:
            fd.load(path)
        assert str(caught.value) == f"{path} {TWO}"
    newer = {"_class_name": "WanPipeline", "boundary_ratio": None, "transformer_2": [None, None]}
    (folder / "model_index.json").write_text(json.dumps(newer))
    check_single(folder / "transformer", folder)
