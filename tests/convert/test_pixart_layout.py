"""PixArt's published state dict: back and forth to the bit, what it tells, and what it does not."""

from __future__ import annotations

import re
import weakref
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import flexidit_jax as fd
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import Tensors
from flexidit_jax.convert.pixart_diffusers import published
from flexidit_jax.convert.pixart_layout import read_pixart, write_pixart
from flexidit_jax.convert.said import Said
from flexidit_jax.models.flexify import at
from flexidit_jax.models.fold import folded
from flexidit_jax.models.position import position_embedding

GOLDEN = Path(__file__).parents[1] / "golden"
State = dict[str, np.ndarray]


@pytest.fixture(scope="module", params=["pixart_tiny", "pixart_micro_tiny"])
def state(request: pytest.FixtureRequest) -> State:
    """A published state dict, with positions and the features of no text."""
    values = np.load(GOLDEN / f"{request.param}.npz")
    state = published(load_file(GOLDEN / f"{request.param}.safetensors"))
    return {**state, "pos_embed": values["pos_embed"], "y_embedder.y_embedding": values["null"]}


def heads(state: State) -> int:
    return len(state["x_embedder.proj.bias"]) // 12


def test_there_and_back_to_the_bit(state: State, tmp_path: Path) -> None:
    model, params = read_pixart(state, Said(heads(state)))
    back = write_pixart(model, params)
    assert back.keys() == state.keys()
    assert all(np.array_equal(back[key], state[key]) for key in state)
    save_file(state, tmp_path / "there.safetensors")
    flex = fd.load(tmp_path / "there.safetensors", num_heads=heads(state))
    flex.export(tmp_path / "back.safetensors")
    fd.load(tmp_path / "back.safetensors").export(tmp_path / "again.safetensors")  # heads are in its metadata
    flex.save(tmp_path / "saved")
    fd.load(tmp_path / "saved").export(tmp_path / "of_saved.safetensors")
    for name in ("back", "again", "of_saved"):
        found = load_file(tmp_path / f"{name}.safetensors")
        assert found.keys() == state.keys() and all(np.array_equal(found[key], state[key]) for key in state), name


def test_what_torch_saved_is_the_same_model() -> None:
    pytest.importorskip("torch")
    values = np.load(GOLDEN / "pixart_tiny.npz")
    flex = fd.load(GOLDEN / "pixart_tiny.pth", num_heads=3)
    conditioner = flex.model.conditioner
    assert (conditioner.length, conditioner.null_length, conditioner.null_mask) == (10, 10, "caption")
    assert (flex.model.span, flex.model.latent) == (4, (1, 16, 16, 4))
    trunk = {**flex.params["trunk"], "conditioner": dict(flex.params["trunk"]["conditioner"])}
    np.testing.assert_array_equal(trunk["conditioner"].pop("null"), values["null"])
    other = fd.load(GOLDEN / "pixart_tiny.safetensors")  # of diffusers' names, whose outputs are compared
    jax.tree.map(np.testing.assert_array_equal, {**flex.params, "trunk": trunk}, other.params)


@pytest.mark.parametrize("state", ["pixart_micro_tiny"], indirect=True)
def test_a_training_file_has_an_average(state: State, tmp_path: Path) -> None:
    both = {f"state_dict_ema.{key}": value for key, value in state.items()}
    both |= {f"state_dict.{key}": 2 * value if "mlp" in key else value for key, value in state.items()}
    save_file(both | {"optimizer.0": np.zeros(1, np.float32)}, path := tmp_path / "both.safetensors")
    for weights, factor in ((None, 1), ("ema", 1), ("raw", 2)):
        bias = fd.load(path, num_heads=2, weights=weights).params["trunk"]["timestep"]["fc1"]["bias"]
        np.testing.assert_array_equal(bias, factor * state["t_embedder.mlp.0.bias"])


@pytest.mark.parametrize("state", ["pixart_micro_tiny"], indirect=True)
@pytest.mark.parametrize("patch", [2, 4])
def test_a_mode_exports_by_itself(state: State, tmp_path: Path, patch: int) -> None:
    """Its norms are deltas of tables, its positions those of the middle of its patches."""
    save_file(state, tmp_path / "there.safetensors")
    flex = fd.load(tmp_path / "there.safetensors", num_heads=heads(state)).flexify((2, 4))
    rng = np.random.default_rng(0)
    for leaves in flex.params["modes"].values():
        for norm in (leaves["blocks"]["norm1"], leaves["blocks"]["norm2"], leaves["final"]["norm"]):
            norm |= {leaf: 0.3 * rng.normal(size=norm[leaf].shape).astype(np.float32) for leaf in norm}
        leaves["patch_embedding"] = rng.normal(size=leaves["patch_embedding"].shape).astype(np.float32)
    flex.export(tmp_path / "mode.safetensors", patch)
    alone = fd.load(tmp_path / "mode.safetensors")
    assert (alone.model.patch, alone.model.base_patch) == ((1, patch, patch), (1, 2, 2))
    here, there = folded(at(flex.params, alone.model.patch)), at(alone.params, alone.model.patch)
    jax.tree.map(np.testing.assert_array_equal, here, there)
    assert alone.model == flex.model.at(alone.model.patch)
    with pytest.raises(
        UserError, match=r"^diffusers computes positions itself and cannot hold those of a larger patch"
    ):
        flex.export(tmp_path / "folder", 4)
    assert not (tmp_path / "folder").exists()


def test_features_with_a_mask_of_their_own_are_not_written(state: State) -> None:
    """Who reads `y_embedding` reads it by the mask of a caption."""
    model, params = read_pixart(state, Said(heads(state)))
    back = write_pixart(model.clone(conditioner=model.conditioner.clone(null_mask="own")), params)
    assert back.keys() == state.keys() - {"y_embedder.y_embedding"}


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0, 4.0])
def test_the_scale_is_read_off_the_positions(state: State, scale: float) -> None:
    width, patch = state["pos_embed"].shape[-1], (1, 2, 2)
    moved = {**state, "pos_embed": position_embedding((1, 16, 16), patch, patch, width, 8 / scale)[None]}
    assert read_pixart(moved, Said(heads(state), interpolation_scale=scale))[0].span == 8 / scale
    with pytest.raises(UserError, match=rf"^interpolation_scale is 3, but pos_embed holds positions of scale {scale}$"):
        read_pixart(moved, Said(heads(state), interpolation_scale=3))


def test_depth_is_read_off_the_keys(state: State) -> None:
    deep = dict(state)
    for key in [key for key in state if key.startswith("blocks.0.")]:
        deep |= {key.replace("blocks.0.", f"blocks.{i}."): state[key] for i in range(42)}
    model, params = read_pixart(deep, Said(heads(state)))
    assert model.depth == 42 and params["blocks"]["mlp"]["fc1"]["bias"].shape[0] == 42


def test_what_the_file_does_not_tell_is_asked_for(state: State, tmp_path: Path) -> None:
    bare = {key: value for key, value in state.items() if key not in ("pos_embed", "y_embedder.y_embedding")}
    save_file(bare, path := tmp_path / "bare.safetensors")
    with pytest.raises(
        UserError, match=r"lacks pos_embed, which tells input_size and interpolation_scale; say them in a"
    ):
        fd.load(path, num_heads=heads(state))
    (tmp_path / "config.json").write_text('{"input_size": 16, "interpolation_scale": 2}')
    with pytest.raises(
        UserError, match=r"heads is not in a PixArt state dict, and width \d\d is no multiple of 72.*; pass num_heads=$"
    ):
        fd.load(path)
    model = fd.load(path, num_heads=heads(state)).model
    assert (model.latent, model.span, model.conditioner.null_length) == ((1, 16, 16, 4), 4, 0)
    (tmp_path / "config.json").write_text('{"input_size": 16, "interpolation_scale": -2}')
    with pytest.raises(UserError, match=r"config\.json says interpolation_scale=-2, which is not a positive number$"):
        fd.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.0.attn.sr.weight": 0}, "blocks.0.attn.sr.weight is of a PixArt that compresses keys and values"),
        ({"blocks.0.attn.norm.weight": 0}, "blocks.0.attn.norm.weight is of a PixArt that compresses keys and values"),
        ({"blocks.0.attn.k_norm.weight": 0}, "blocks.0.attn.k_norm.weight is of a PixArt that normalises queries and"),
        ({"blocks.0.attn.q_norm.weight": 0}, "blocks.0.attn.q_norm.weight is of a PixArt that normalises queries and"),
        ({"pos_embed": 1.001}, "pos_embed holds positions of none of the scales 0.5, 1, 2, 4"),
        ({"blocks.0.mlp.fc3.weight": 0}, "not a PixArt state dict: unexpected blocks.0.mlp.fc3.weight"),
        ({"t_block.1.bias": None}, "not a PixArt state dict: missing t_block.1.bias"),
        ({"blocks.0.mlp.fc1.weight": None}, "not a PixArt state dict: missing blocks.0.mlp.fc1.weight"),
    ],
)
def test_another_network_is_refused(state: State, change: dict[str, float | None], message: str) -> None:
    changed = dict(state)
    for key, factor in change.items():
        if factor is None:
            del changed[key]
        else:
            changed[key] = factor * state.get(key, np.zeros(1, np.float32))
    with pytest.raises(UserError, match=rf"^{re.escape(message)}"):
        read_pixart(changed, Said(heads(state)))


def test_a_misshapen_tensor_is_named(state: State) -> None:
    name, heads_of = "blocks.0.mlp.fc2.weight", heads(state)
    d = len(state["x_embedder.proj.bias"])
    with pytest.raises(
        UserError, match=rf"^not a PixArt state dict: {name} is \[4, {d}\] instead of \[{d}, {4 * d}\]$"
    ):
        read_pixart({**state, name: np.zeros((4, d), np.float32)}, Said(heads_of))


def test_tensors_are_read_one_by_one(state: State) -> None:
    alive, most = set(), []

    def read(name: str) -> np.ndarray:
        array = state[name].copy()
        alive.add(name)
        weakref.finalize(array, alive.discard, name)
        most.append(len(alive))
        return array

    _, params = read_pixart(Tensors({name: partial(read, name) for name in state}), Said(heads(state)))
    assert max(most) <= 2 and len(jax.tree.leaves(params)) > 30
