"""The published layout of an autoencoder: names, axes, both spellings, refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.trees import flatten
from flexidit_jax.models.pretrained.autoencoder_kl import VAE
from flexidit_jax.models.pretrained.autoencoder_kl_layout import published_name, read_vae, write_vae

TINY = VAE(widths=(4, 8), resnets=1, groups=2)
OLDER = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
NORM, KERNEL = "decoder.conv_norm_out.weight", "encoder.down_blocks.1.resnets.0.conv1.weight"

State = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def state() -> State:
    """Random tensors, no two alike."""
    shapes = jax.eval_shape(TINY.init, jax.random.key(0), jnp.zeros((1, 2, 2, 3)))["params"]
    rng = np.random.default_rng(0)
    return write_vae(jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), shapes))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("encoder/conv_in/kernel", "encoder.conv_in.weight"),
        ("encoder/down_blocks_3/resnets_1/norm2/scale", "encoder.down_blocks.3.resnets.1.norm2.weight"),
        ("encoder/down_blocks_0/downsamplers_0/conv/bias", "encoder.down_blocks.0.downsamplers.0.conv.bias"),
        ("decoder/up_blocks_2/resnets_0/conv_shortcut/kernel", "decoder.up_blocks.2.resnets.0.conv_shortcut.weight"),
        ("decoder/up_blocks_2/upsamplers_0/conv/kernel", "decoder.up_blocks.2.upsamplers.0.conv.weight"),
        ("decoder/mid_block/attentions_0/to_out_0/kernel", "decoder.mid_block.attentions.0.to_out.0.weight"),
        ("decoder/mid_block/attentions_0/group_norm/scale", "decoder.mid_block.attentions.0.group_norm.weight"),
        ("post_quant_conv/bias", "post_quant_conv.bias"),
    ],
)
def test_published_names(path: str, name: str) -> None:
    assert published_name(path) == name


def test_model_and_axes(state: State) -> None:
    model, params = read_vae(state, groups=2)
    assert model == TINY
    kernel = params["encoder"]["down_blocks_1"]["resnets_0"]["conv1"]["kernel"]  # [kh, kw, in, out]
    assert kernel.shape == (3, 3, 4, 8)
    assert kernel[0, 2, 1, 5] == state[KERNEL][5, 1, 0, 2]
    query = params["encoder"]["mid_block"]["attentions_0"]["to_q"]["kernel"]  # [in, out]
    assert query[1, 5] == state["encoder.mid_block.attentions.0.to_q.weight"][5, 1]


def test_older_attention_names_and_convolutions(state: State) -> None:
    older = {}
    for key, value in state.items():
        for new, old in OLDER.items():
            key = key.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
        older[key] = value[:, :, None, None] if ".attentions.0." in key and value.ndim == 2 else value
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in older
    ours, theirs = (flatten(read_vae(s, groups=2)[1]) for s in (older, state))
    assert all(np.array_equal(ours[path], theirs[path]) for path in theirs)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(state: State, dtype: np.dtype) -> None:
    half = {key: value.astype(dtype) for key, value in state.items()}
    params = read_vae(half, groups=2)[1]
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(params["decoder"]["conv_norm_out"]["scale"], half[NORM].astype(np.float32))


def test_every_wrong_key_is_named(state: State) -> None:
    wrong = {key: value for key, value in state.items() if key != "quant_conv.bias"}
    wrong |= {"loss.logvar": np.zeros(1), NORM: state[NORM][:3]}
    with pytest.raises(UserError) as error:
        read_vae(wrong, groups=2)
    assert str(error.value) == (
        "not an AutoencoderKL state dict: missing quant_conv.bias; unexpected loss.logvar;"
        " decoder.conv_norm_out.weight is [3] instead of [4]"
    )


def test_another_model_is_refused_briefly(state: State) -> None:
    with pytest.raises(UserError) as error:
        read_vae({"x_embedder.proj.weight": np.zeros((4, 4, 2, 2))})
    assert str(error.value) == (
        "not an AutoencoderKL state dict: missing encoder.down_blocks.0.resnets.0.conv1.weight;"
        " missing encoder.conv_in.weight; missing post_quant_conv.weight"
    )
    flat = {**state, "post_quant_conv.weight": state["post_quant_conv.weight"][:, :, 0, 0]}
    with pytest.raises(UserError, match=r"post_quant_conv\.weight has 2 axes instead of 4$"):
        read_vae(flat, groups=2)


def test_groups_that_do_not_divide_the_widths(state: State) -> None:
    with pytest.raises(UserError, match=r"^norm_num_groups=32 does not divide the widths 4, 8$"):
        read_vae(state)
