"""Both layouts of Wan's transformer, there and back, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import read_safetensors
from flexidit_jax.common.trees import count
from flexidit_jax.convert.wan_layout import Sizes, _shapes, read_wan, write_wan
from flexidit_jax.convert.wan_names import in_diffusers
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
def test_published_sizes(width: int, depth: int, hidden: int, millions: int) -> None:
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
    ours = jax.eval_shape(model.init, jax.random.key(0), *model.example(1), model.conditioner.parse([None]))["params"]
    assert count(ours) == sum(np.prod(shape) for shape in shapes.values())


def test_refusals() -> None:
    with pytest.raises(UserError) as caught:
        read_wan(STATE)
    assert str(caught.value) == (
        "the number of heads is not in a Wan state dict, and width 40 is no multiple of 128, that of a published head;"
        " pass num_heads="
    )
    with pytest.raises(UserError, match=r"blocks\.0\.attn2\.add_k_proj\.weight is of a Wan that makes clips of images"):
        read_wan({**STATE, "blocks.0.attn2.add_k_proj.weight": np.ones((40, 40))}, SIZES)
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
