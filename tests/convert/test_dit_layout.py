"""The published layout: read and written back to the bit, every fault named at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import read_safetensors
from flexidit_jax.convert.dit_layout import heads_of, read_dit, write_dit
from flexidit_jax.models.build import build_dit
from flexidit_jax.models.flexify import at
from flexidit_jax.models.position import position_embedding

GOLDEN = Path(__file__).parents[1] / "golden" / "dit_tiny.safetensors"

State = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def published() -> State:
    return read_safetensors(GOLDEN)[0]


def made_up(
    d: int = 12, depth: int = 2, p: int = 2, c: int = 3, side: int = 8, classes: int = 5, mlp: int = 4, out: int = 2
) -> State:
    """A state dict of the published layout, written down here once more: torch linears are [out, in]."""
    shapes = {
        "x_embedder.proj.weight": (d, c, p, p),
        "x_embedder.proj.bias": (d,),
        "t_embedder.mlp.0.weight": (d, 256),
        "t_embedder.mlp.0.bias": (d,),
        "t_embedder.mlp.2.weight": (d, d),
        "t_embedder.mlp.2.bias": (d,),
        "y_embedder.embedding_table.weight": (classes + 1, d),
        "final_layer.linear.weight": (p * p * c * out, d),
        "final_layer.linear.bias": (p * p * c * out,),
        "final_layer.adaLN_modulation.1.weight": (2 * d, d),
        "final_layer.adaLN_modulation.1.bias": (2 * d,),
    }
    for i in range(depth):
        for name, width, fan in [
            ("attn.qkv", 3 * d, d),
            ("attn.proj", d, d),
            ("mlp.fc1", mlp * d, d),
            ("mlp.fc2", d, mlp * d),
            ("adaLN_modulation.1", 6 * d, d),
        ]:
            shapes[f"blocks.{i}.{name}.weight"] = (width, fan)
            shapes[f"blocks.{i}.{name}.bias"] = (width,)
    rng = np.random.default_rng(0)
    state = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    positions = position_embedding((1, side, side), (1, p, p), (1, p, p), d)
    return {"pos_embed": positions[None], **state}


def assert_equal(ours: State, reference: State) -> None:
    assert ours.keys() == reference.keys()
    for name, array in ours.items():
        assert array.dtype == np.float32, name
        np.testing.assert_array_equal(array, reference[name], err_msg=name)


def test_the_published_file_survives_to_the_bit(published: State) -> None:
    model, params = read_dit(published, 4)
    assert_equal(write_dit(model, params), published)
    assert_equal(write_dit(*read_dit(write_dit(model, params), 4)), published)


@pytest.mark.parametrize("words", [{}, {"p": 4, "c": 1, "out": 1, "mlp": 3}, {"depth": 1, "d": 16, "side": 4}])
def test_any_size_survives_to_the_bit(words: dict[str, int]) -> None:
    state = made_up(**words)
    model, params = read_dit(state, 2)
    assert_equal(write_dit(model, params), state)


def test_the_model_is_read_off_the_tensors() -> None:
    model, _ = read_dit(made_up(d=12, depth=2, p=4, c=3, side=16, classes=5, mlp=3, out=1), 3)
    expected = build_dit((1, 16, 16, 3), {"name": "classes", "classes": 5}, 4, None, 12, 2, 3, 3, learn_variance=False)
    assert model == expected
    assert read_dit(made_up(), 2)[0].learn_variance


def test_a_flexible_model_is_written_at_its_own_mode(dit: FlexiDiT, published: State) -> None:
    assert_equal(write_dit(dit.model, at(dit.params, (1, 2, 2))), published)


def test_every_fault_is_named_at_once() -> None:
    state = made_up()
    del state["blocks.1.attn.proj.bias"], state["t_embedder.mlp.2.weight"]
    state["blocks.0.attn.qkv.weight"] = np.zeros((12, 36), np.float32)
    state["final_layer.linear.bias"] = np.zeros(25, np.float32)
    state["blocks.0.norm1.weight"] = np.zeros(12, np.float32)
    with pytest.raises(UserError) as caught:
        read_dit(state, 2)
    first, *faults = str(caught.value).split("; ")
    assert first.startswith("not a DiT state dict: ")
    assert {first.removeprefix("not a DiT state dict: "), *faults} == {
        "missing blocks.1.attn.proj.bias",
        "missing t_embedder.mlp.2.weight",
        "unexpected blocks.0.norm1.weight",
        "blocks.0.attn.qkv.weight is [12, 36] instead of [36, 12]",
        "final_layer.linear.bias is [25] instead of [24]",
    }


@pytest.mark.parametrize("name", sorted(made_up(depth=1).keys() - {"pos_embed"}))
def test_no_tensor_may_be_missing(name: str) -> None:
    state = made_up(depth=1)
    del state[name]
    with pytest.raises(UserError) as caught:
        read_dit(state, 2)
    assert str(caught.value) == f"not a DiT state dict: missing {name}"


def test_positions_that_a_file_lacks_are_those_of_its_patch(published: State) -> None:
    bare = {name: value for name, value in published.items() if name != "pos_embed"}
    model, params = read_dit(bare, 4, input_size=8)
    expected, theirs = read_dit(published, 4)
    assert model == expected
    jax.tree.map(np.testing.assert_array_equal, params, theirs)
    with pytest.raises(UserError) as caught:
        read_dit(bare, 4)
    assert str(caught.value) == (
        "the state dict lacks pos_embed, which tells the latent's side; say it in a config.json beside the file,"
        ' such as {"input_size": 32}'
    )
    with pytest.raises(UserError, match="does not divide"):
        read_dit(bare, 4, input_size=9)


def test_another_models_file_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        read_dit({"conv.weight": np.zeros(3), "pos_embed": np.zeros((4, 8))}, 2)
    assert str(caught.value) == (
        "not a DiT state dict: missing x_embedder.proj.weight; missing final_layer.linear.weight;"
        " missing y_embedder.embedding_table.weight; missing blocks.0.mlp.fc1.weight;"
        " pos_embed has 2 axes instead of 3"
    )


@pytest.mark.parametrize(("width", "heads"), [(384, 6), (768, 12), (1024, 16), (1152, 16)])
def test_heads_of_published_widths(width: int, heads: int) -> None:
    assert heads_of(width, None) == heads
    assert heads_of(width, 2) == heads_of(width, {width: 2, 12: 3}) == 2  # what is given wins
    assert heads_of(width, {12: 3}) == heads


def test_heads_that_cannot_be_told_are_refused(published: State) -> None:
    for call in (lambda: heads_of(64, None), lambda: read_dit(published)):
        with pytest.raises(UserError) as caught:
            call()
        assert str(caught.value) == (
            "the number of heads is not in a DiT state dict and width 64 is not a published one"
            " (384, 768, 1024, 1152); pass num_heads="
        )
    for bad in (0, -4, 5):
        with pytest.raises(UserError) as caught:
            heads_of(64, bad)
        assert str(caught.value) == f"num_heads={bad} is not an integer that divides the width 64"


@pytest.mark.parametrize(
    "words",
    [
        {"latent": (2, 8, 8, 3)},
        {"latent": (1, 8, 4, 3)},
        {"patch": (2, 4)},
        {"latent": (2, 8, 8, 3), "patch": (2, 2, 2)},
    ],
)
def test_models_the_layout_cannot_hold(words: dict[str, Any]) -> None:
    section = {"latent": (1, 8, 8, 3), "conditioner": {"name": "classes", "classes": 5}, **words}
    with pytest.raises(UserError) as caught:
        write_dit(build_dit(**section, width=12, depth=1, num_heads=2), {})
    assert str(caught.value) == "the published DiT layout holds square images and square patches only"


def test_blocks_the_layout_cannot_hold() -> None:
    section = {"latent": (1, 8, 8, 3), "conditioner": {"name": "classes", "classes": 5}}
    model = build_dit(**section, width=12, depth=1, num_heads=2)
    for other, blocks in ((model.clone(modulation="single"), {}), (model, {"cross_attention": {}})):
        with pytest.raises(
            UserError, match=r"^the published layout of DiT holds no modulation='single' and no cross-a"
        ):
            write_dit(other, {"blocks": blocks})


def test_leaves_of_one_mode_are_folded(flex: FlexiDiT, published: State) -> None:
    written = write_dit(flex.model, at(flex.params, (1, 2, 2)))
    assert set(written) == set(published)


def test_a_block_without_a_number_is_named(published: State) -> None:
    with pytest.raises(UserError, match=r"unexpected blocks\.extra\.weight"):
        read_dit({**published, "blocks.extra.weight": np.zeros(1, np.float32)}, 4)
