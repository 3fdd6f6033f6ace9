"""diffusers' folder of a PixArt: back and forth to the bit, and what its config may say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import flexidit_jax as fd
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import read_safetensors

GOLDEN = Path(__file__).parents[1] / "golden"
STEM = "diffusion_pytorch_model.safetensors"


def folder_of(name: str, root: Path, change: dict[str, Any] | None = None) -> Path:
    """A golden file as a folder of diffusers, some words of its config changed; "-" leaves a word out."""
    state, metadata = read_safetensors(GOLDEN / f"{name}.safetensors")
    config = json.loads(metadata["config"]) | (change or {})
    root.mkdir(parents=True)
    save_file(state, root / STEM)
    (root / "config.json").write_text(json.dumps({key: said for key, said in config.items() if said != "-"}))
    return root


@pytest.mark.parametrize("name", ["pixart_tiny", "pixart_micro_tiny"])
def test_there_and_back_to_the_bit(name: str, tmp_path: Path) -> None:
    there = folder_of(name, tmp_path / "pipeline" / "transformer")
    flex = fd.load(tmp_path / "pipeline")
    assert flex.codec is None  # alpha and Sigma have one each
    flex.export(tmp_path / "back")
    state, found = load_file(there / STEM), load_file(tmp_path / "back" / STEM)
    assert found.keys() == state.keys() and all(np.array_equal(found[key], state[key]) for key in state)
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == json.loads(
        (there / "config.json").read_text()
    )
    fd.load(GOLDEN / f"{name}.safetensors").export(tmp_path / "back")  # the same may be written again
    fd.load(there).export(tmp_path / "published.safetensors")
    fd.load(tmp_path / "published.safetensors").export(tmp_path / "back")


def test_features_of_no_text_are_read_and_written(tmp_path: Path) -> None:
    there = folder_of("pixart_tiny", tmp_path / "there")
    null = np.load(GOLDEN / "pixart_tiny.npz")["null"]
    save_file(load_file(there / STEM) | {"caption_projection.y_embedding": null}, there / STEM)
    flex = fd.load(there)
    assert flex.model.conditioner.null_length == 10
    flex.export(tmp_path / "back")
    np.testing.assert_array_equal(load_file(tmp_path / "back" / STEM)["caption_projection.y_embedding"], null)


def test_the_codec_is_that_of_a_pipeline(tmp_path: Path) -> None:
    folder_of("pixart_tiny", tmp_path / "transformer")
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text('{"scaling_factor": 0.13025}')
    codec = fd.load(tmp_path).codec
    assert (codec.path, codec.scale) == (str(tmp_path / "vae"), 0.13025)


@pytest.mark.parametrize(
    "change",
    [
        {"_class_name": "Transformer2DModel", "double_self_attention": False, "num_vector_embeds": None},
        {"use_additional_conditions": True},  # keys decide
        {"_diffusers_version": "0.42", "attention_type": None},
    ],
)
def test_words_of_other_versions_are_read(tmp_path: Path, change: dict[str, Any]) -> None:
    model = fd.load(folder_of("pixart_tiny", tmp_path / "there", change)).model
    assert (model.num_heads, model.span, model.conditioner.resolution) == (3, 4, None)


@pytest.mark.parametrize("said", [None, "-"])
def test_a_scale_that_is_not_said_is_that_of_the_size(tmp_path: Path, said: str | None) -> None:
    change = {"interpolation_scale": said, "sample_size": 256}
    assert fd.load(folder_of("pixart_tiny", tmp_path / "there", change)).model.span == 128 / 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"norm_eps": 1e-5}, "says norm_eps is 1e-05, but the weights are of a PixArt with 1e-06"),
        ({"num_layers": 3}, "says num_layers is 3, but the weights are of a PixArt with 2"),
        ({"qk_norm": "rms"}, "says qk_norm is 'rms', which no PixArt that is read has"),
        ({"num_attention_heads": "-"}, "must say num_attention_heads as a whole number in 1..4096, got None"),
        ({"sample_size": 0}, "must say sample_size as a whole number in 1..4096, got 0"),
        ({"interpolation_scale": "2"}, "must say interpolation_scale as a positive number, got '2'"),
        ({"interpolation_scale": True}, "must say interpolation_scale as a positive number, got True"),
    ],
)
def test_a_config_of_another_network_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    there = folder_of("pixart_tiny", tmp_path / "there", change)
    with pytest.raises(UserError, match=rf"^{re.escape(str(there / 'config.json'))} {re.escape(message)}$"):
        fd.load(there)


def test_missing_and_unexpected_keys_are_named(tmp_path: Path) -> None:
    there = folder_of("pixart_tiny", tmp_path / "there")
    state = load_file(there / STEM)
    state["transformer_blocks.0.attn3.to_q.weight"] = state.pop("transformer_blocks.0.attn2.to_q.weight")
    save_file(state, there / STEM)
    wanted = "missing transformer_blocks.0.attn2.to_q.weight; unexpected transformer_blocks.0.attn3.to_q.weight"
    with pytest.raises(UserError, match=rf": not a PixArtTransformer2DModel: {re.escape(wanted)}$"):
        fd.load(there)


def test_linears_that_are_not_alike_are_named(tmp_path: Path) -> None:
    there = folder_of("pixart_tiny", tmp_path / "there")
    state, name = load_file(there / STEM), "transformer_blocks.1.attn1.to_{}.weight"
    state[name.format("v")] = np.zeros((36, 35), np.float32)
    save_file(state, there / STEM)
    message = f"{name.format('q')} is [36, 36], but {name.format('v')} [36, 35]"
    with pytest.raises(UserError, match=rf": {re.escape(message)}$"):
        fd.load(there)
