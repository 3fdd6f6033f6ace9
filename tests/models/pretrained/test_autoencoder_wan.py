"""Wan's autoencoder against another implementation; whole clips and pieces of them; both layouts of its names."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import jax
import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import read_safetensors
from flexidit_jax.common.trees import count
from flexidit_jax.common.types import Params
from flexidit_jax.models.pretrained.autoencoder_wan import PAST, WanVAE
from flexidit_jax.models.pretrained.autoencoder_wan_layout import published_name, read_vae, write_vae

GOLDEN = Path(__file__).parents[2] / "golden"
STATE = read_safetensors(GOLDEN / "wan_vae_tiny.safetensors")[0]
NAMES = json.loads((GOLDEN / "wan_vae_names.json").read_text())
CONFIG = json.loads(read_safetensors(GOLDEN / "wan_vae_tiny.safetensors")[1]["config"])
MEAN, STD = (np.float32(CONFIG[f"latents_{kind}"]) for kind in ("mean", "std"))


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    """Clips and latents, channels last."""
    found = dict(np.load(GOLDEN / "wan_vae_tiny.npz"))
    return {name: np.moveaxis(array, 1, -1) for name, array in found.items() if array.ndim == 5}


@pytest.fixture(scope="module")
def vae() -> tuple[WanVAE, Params]:
    return read_vae(STATE)


def moments(model: WanVAE, params: Params, past: Params, x: np.ndarray, first: bool) -> tuple:
    return model.apply({"params": params, **past}, x, first, method="moments", mutable=[PAST])


def decode(model: WanVAE, params: Params, past: Params, z: np.ndarray, first: bool) -> tuple:
    return model.apply({"params": params, **past}, z, first, method="decode", mutable=[PAST])


MOMENTS, DECODE = (jax.jit(one, static_argnames=("model", "first")) for one in (moments, decode))


def in_pieces(step: Callable, vae: tuple, clip: np.ndarray, cuts: Sequence[int]) -> list:
    past, found = {}, []
    for begin, end in pairwise(cuts):
        piece, past = step(*vae, past, clip[:, begin:end], begin == 0)
        found.append(piece)
    return found


@pytest.mark.parametrize("cuts", [[0, 9], [0, 1, 5, 9], [0, 5, 9]])
def test_the_posterior(vae: tuple[WanVAE, Params], golden: dict[str, np.ndarray], cuts: list[int]) -> None:
    found = in_pieces(MOMENTS, vae, golden["encode9_x"], cuts)
    mean, log_variance = (np.concatenate(parts, 1) for parts in zip(*found, strict=True))
    np.testing.assert_allclose(mean, golden["encode9_mean"], atol=2e-6)
    np.testing.assert_allclose(log_variance, golden["encode9_logvar"], atol=2e-6)
    np.testing.assert_allclose((mean - MEAN) / STD, golden["encode9_latent"], atol=2e-6)


@pytest.mark.parametrize("cuts", [[0, 4], [0, 1, 3, 4]])
def test_decoded(vae: tuple[WanVAE, Params], golden: dict[str, np.ndarray], cuts: list[int]) -> None:
    frames = in_pieces(DECODE, vae, golden["decode4_latent"] * STD + MEAN, cuts)
    assert [piece.shape[1] for piece in frames] == [
        1 + 4 * (cuts[1] - 1),
        *(4 * (b - a) for a, b in pairwise(cuts[1:])),
    ]
    np.testing.assert_allclose(np.concatenate(frames, 1), golden["decode4_unclamped"], atol=2e-5)


def test_one_frame(vae: tuple[WanVAE, Params], golden: dict[str, np.ndarray]) -> None:
    [(mean, _)] = in_pieces(MOMENTS, vae, golden["encode1_x"], [0, 1])
    np.testing.assert_allclose(mean, golden["encode1_mean"], atol=2e-6)
    [frame] = in_pieces(DECODE, vae, golden["decode1_latent"] * STD + MEAN, [0, 1])
    np.testing.assert_allclose(frame, golden["decode1_unclamped"], atol=2e-5)


def test_without_a_past_a_clip_is_whole(vae: tuple[WanVAE, Params], golden: dict[str, np.ndarray]) -> None:
    model, params = vae
    found = jax.jit(partial(model.apply, method="decode"))({"params": params}, golden["decode2_latent"] * STD + MEAN)
    np.testing.assert_allclose(found, golden["decode2_unclamped"], atol=2e-5)


def test_the_published_size() -> None:
    model = WanVAE()
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 5, 8, 8, 3), np.float32))["params"]
    assert count(shapes) == 126_892_531
    assert len(jax.tree.leaves(shapes)) == len(NAMES) == 194
    assert model.factors == (4, 8)


def test_both_layouts_hold_the_same(vae: tuple[WanVAE, Params]) -> None:
    model, params = vae
    written = write_vae(params)
    assert written.keys() == STATE.keys() == NAMES.keys()
    for name, array in written.items():
        np.testing.assert_array_equal(array, STATE[name])
    theirs = {NAMES[name]: array for name, array in STATE.items()}
    other, same = read_vae(theirs)
    assert other == model
    jax.tree.map(np.testing.assert_array_equal, same, params)
    assert published_name("decoder/up_blocks_0/upsamplers_0/resample_1/kernel") == (
        "decoder.up_blocks.0.upsamplers.0.resample.1.weight"
    )


def test_what_is_no_such_state() -> None:
    with pytest.raises(UserError, match=r"not an AutoencoderKLWan state dict: missing encoder\.down_blocks\.0"):
        read_vae({name: array for name, array in STATE.items() if not name.startswith("encoder")})
    spoilt = {**STATE, "decoder.norm_out.gamma": STATE["decoder.norm_out.gamma"][:2], "other.weight": np.ones(3)}
    del spoilt["quant_conv.bias"]
    with pytest.raises(UserError) as caught:
        read_vae(spoilt)
    assert str(caught.value) == (
        "not an AutoencoderKLWan state dict: missing quant_conv.bias; unexpected other.weight; decoder.norm_out.gamma"
        " is [2, 1, 1, 1] instead of [4, 1, 1, 1]"
    )
    flat = {**STATE, "encoder.conv_in.weight": np.ones((4, 3, 3, 3))}
    with pytest.raises(UserError, match=r"encoder\.conv_in\.weight has 4 axes instead of 5"):
        read_vae(flat)
