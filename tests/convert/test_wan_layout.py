"""Both layouts of Wan's transformer, there and back, and what is refused."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import read_safetensors, write_safetensors
from flexidit_jax.common.trees import count, flatten
from flexidit_jax.convert import wan_layout
from flexidit_jax.convert.wan_layout import Sizes, _shapes, read_wan, write_wan
from flexidit_jax.convert.wan_names import in_diffusers, of_repository
from flexidit_jax.models.build import build_dit

GOLDEN = Path(__file__).parents[1] / "golden"
STATE = read_safetensors(GOLDEN / "wan_tiny.safetensors")[0]
NAMES = json.loads((GOLDEN / "wan_names.json").read_text())
SIZES = Sizes(num_heads=2, latent=(3, 6, 8), length=12)


def test_there_and_back_to_the_bit() -> None:
    model, params = read_wan(STATE, SIZES)
    written = write_wan(model, params)
    assert written.keys() == STATE.keys()
    for name, array in STATE.items():
        np.testing.assert_array_equal(written[name], array)
    assert np.shares_memory(written["blocks.1.ffn.net.2.weight"], params["blocks"]["mlp"]["fc2"]["kernel"])
    assert (model.latent, model.patch, model.hidden) == ((3, 6, 8, 4), (1, 2, 2), 72)


def test_the_names_of_the_repository() -> None:
    model, params = read_wan(STATE, SIZES)
    theirs = write_wan(model, params, repository=True)
    for name, other in NAMES.items():
        if name in STATE:
            np.testing.assert_array_equal(theirs[other], STATE[name])
    assert len(theirs) == len(STATE) and in_diffusers(theirs).keys() == STATE.keys()
    again, same = read_wan(theirs, SIZES)
    assert again == model
    jax.tree.map(np.testing.assert_array_equal, same, params)


@pytest.mark.parametrize(("width", "depth", "hidden", "millions"), [(1536, 30, 8960, 1419), (5120, 40, 13824, 14288)])
def test_published_sizes(monkeypatch: pytest.MonkeyPatch, width: int, depth: int, hidden: int, millions: int) -> None:
    """The map of keys at full shapes, which nothing is allocated for."""
    model = build_dit(
        latent=(21, 60, 104, 16),
        conditioner={"name": "text", "features": 4096, "length": 512, "mask": False},
        patch=(1, 2, 2),
        width=width,
        depth=depth,
        num_heads=width // 128,
        mlp_ratio=hidden / width,
        learn_variance=False,
        modulation="single",
        positions="rope",
        qk_norm="rms",
        cross_norm=True,
    )
    assert model.hidden == hidden
    shapes = _shapes(model)
    assert round(sum(np.prod(shape) for shape in shapes.values()) / 1e6) == millions
    assert len(shapes) == 27 * depth + 15
    if depth == 30:
        assert {name for name in shapes if not re.match(r"blocks\.([2-9]|\d\d)", name)} == NAMES.keys()
    on_shapes = {name: getattr(jax.numpy, name) for name in ("concatenate", "split")}
    monkeypatch.setattr(wan_layout, "np", SimpleNamespace(**on_shapes, prod=np.prod))
    monkeypatch.setattr(wan_layout, "float32", lambda array, copy=True: array)
    monkeypatch.setattr(wan_layout, "stacked", lambda layer, depth: jax.numpy.stack([layer(i) for i in range(depth)]))
    state = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in shapes.items()}

    def read(state: dict) -> dict:
        found, params = read_wan(state)
        assert found == model
        return params

    params = jax.eval_shape(read, state)
    written = jax.eval_shape(partial(write_wan, model), params)
    assert {name: array.shape for name, array in written.items()} == shapes
    ours = jax.eval_shape(model.init, jax.random.key(0), *model.example(1), model.conditioner.parse([None]))["params"]
    assert count(ours) == sum(np.prod(shape) for shape in shapes.values())
    assert {name: leaf.shape for name, leaf in flatten(ours).items()} == {
        name: leaf.shape for name, leaf in flatten(params).items()
    }


def test_refusals() -> None:
    with pytest.raises(UserError) as caught:
        read_wan(STATE)
    assert str(caught.value) == (
        "the number of heads is not in a Wan state dict, and width 40 is no multiple of 128, that of a published head;"
        " pass num_heads="
    )
    missing = {name: array for name, array in STATE.items() if name != "blocks.1.norm2.bias"}
    with pytest.raises(UserError) as caught:
        read_wan(missing, SIZES)
    assert str(caught.value) == "not a WanTransformer3DModel state dict: missing blocks.1.norm2.bias"
    with pytest.raises(UserError) as caught:
        read_wan({**STATE, "blocks.1.norm2.bias": np.ones(3)}, SIZES)
    assert str(caught.value) == "not a WanTransformer3DModel state dict: blocks.1.norm2.bias is [3] instead of [40]"
    with pytest.raises(UserError, match=r"missing proj_out\.weight"):
        read_wan({name: array for name, array in STATE.items() if name != "proj_out.weight"}, SIZES)
    model, params = read_wan(STATE, SIZES)
    with pytest.raises(UserError, match="the published Wan layout holds models with rope"):
        write_wan(model.clone(qk_norm=None), params)
    with pytest.raises(UserError) as caught:
        write_wan(model.at((2, 2, 2)), {})
    assert str(caught.value) == (
        "no published layout holds mode 2x2x2 of a Wan, whose programs place tokens by their number; save() holds all"
        " modes"
    )


@pytest.mark.parametrize(
    ("repository", "name", "does"),
    [
        (False, "blocks.0.attn2.add_k_proj.weight", "makes clips of images"),
        (False, "condition_embedder.image_embedder.norm1.weight", "makes clips of images"),
        (False, "vace_blocks.0.proj_in.weight", "edits clips (VACE)"),
        (True, "blocks.0.cross_attn.k_img.weight", "makes clips of images"),
        (True, "img_emb.proj.0.weight", "makes clips of images"),
        (True, "vace_patch_embedding.weight", "edits clips (VACE)"),
        (True, "pose_patch_embedding.weight", "animates a picture (Animate)"),
        (True, "casual_audio_encoder.weights", "follows sound (S2V)"),
        (True, "control_adapter.conv.weight", "follows a camera"),
    ],
)
def test_others_of_the_family_are_refused_by_name(tmp_path: Path, repository: bool, name: str, does: str) -> None:
    """In files, of which foreign parts are otherwise left out."""
    state = {of_repository(ours): array for ours, array in STATE.items()} if repository else STATE
    write_safetensors(tmp_path / "wan.safetensors", {**state, name: np.ones((40, 40), np.float32)})
    with pytest.raises(UserError) as caught:
        fd.load(tmp_path / "wan.safetensors")
    said = f"{name} is of a Wan that {does}, which is not read; a Wan 2.1 of texts would do"
    assert str(caught.value) == f"{tmp_path / 'wan.safetensors'}: {said}"


def test_other_channels_are_refused_by_name() -> None:
    kernel, last = STATE["patch_embedding.weight"], STATE["proj_out.weight"]
    with pytest.raises(UserError) as caught:
        read_wan({**STATE, "patch_embedding.weight": kernel.repeat(9, 1)}, SIZES)
    assert str(caught.value) == (
        "it reads 36 channels and writes 4, as a Wan that makes clips of images does, which is not read; a Wan 2.1 of"
        " texts would do"
    )
    with pytest.raises(UserError) as caught:
        read_wan(
            {**STATE, "patch_embedding.weight": kernel.repeat(12, 1), "proj_out.weight": last.repeat(12, 0)}, SIZES
        )
    assert str(caught.value) == (
        "it has latents of 48 channels, as the Wan 2.2 of 5B has, whose tokens have times of their own, which is not"
        " read; a Wan 2.1 of texts would do"
    )
