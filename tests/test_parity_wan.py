"""Wan 2.1's network against another implementation, and its larger patches against formulas written apart."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from flexidit_jax.api import FlexiDiT
from flexidit_jax.codecs.identity import Codec
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import read_safetensors
from flexidit_jax.common.types import Patch
from flexidit_jax.convert.wan_layout import Sizes, read_wan
from flexidit_jax.diffusion.flow import Process
from flexidit_jax.models.flexify import at, flexify
from flexidit_jax.models.position import rotations
from flexidit_jax.sampling.packing import LAYOUTS, predict_pair

GOLDEN = Path(__file__).parent / "golden"
STATE, METADATA = read_safetensors(GOLDEN / "wan_tiny.safetensors")
HEADS = json.loads(METADATA["config"])["num_attention_heads"]
PATCHES = [(1, 2, 2), (2, 2, 2), (1, 4, 4), (2, 4, 4)]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    """Latents channels last."""
    found = dict(np.load(GOLDEN / "wan_tiny.npz")) | {
        f"modes/{k}": v for k, v in np.load(GOLDEN / "wan_modes.npz").items()
    }
    return {
        name: np.moveaxis(array, 1, -1) if array.ndim == 5 and "underlying" not in name else array
        for name, array in found.items()
    }


@pytest.fixture(scope="module")
def flex() -> FlexiDiT:
    model, params = read_wan(STATE, Sizes(num_heads=HEADS, latent=(4, 8, 8), length=16))
    return FlexiDiT(model, flexify(params, PATCHES), Process(), Codec())


def test_the_published_network(flex: FlexiDiT, golden: dict[str, np.ndarray]) -> None:
    """Of another size than the model was made with, and of texts of another length."""
    found = flex.predict(golden["latents"], golden["timestep"], {"tokens": golden["text"]})
    np.testing.assert_allclose(found.output, golden["output"], atol=2e-5)
    assert found.variance is None


def test_times_are_real_numbers(flex: FlexiDiT, golden: dict[str, np.ndarray]) -> None:
    found = flex.predict(golden["latents"], np.floor(golden["timestep"]), {"tokens": golden["text"]})
    assert np.abs(found.output[1] - golden["output"][1]).max() > 1e-4


def test_all_rows_of_a_text_are_read(flex: FlexiDiT, golden: dict[str, np.ndarray]) -> None:
    fewer = flex.predict(golden["latents"], golden["timestep"], {"tokens": golden["text"][:, :7]})
    assert np.abs(fewer.output[0] - golden["output"][0]).max() > 1e-3  # whose last five rows are zeros


@pytest.mark.parametrize("patch", PATCHES)
def test_larger_patches(flex: FlexiDiT, golden: dict[str, np.ndarray], patch: Patch) -> None:
    name = "x".join(map(str, patch))
    angles = golden[f"modes/angles_{name}"]
    found = rotations((4, 8, 8), patch, (1, 2, 2), 20)
    np.testing.assert_allclose(found, np.stack([np.cos(angles), np.sin(angles)]), atol=1e-6)
    x, t, text = golden["modes/latents"], golden["modes/timestep"], {"tokens": golden["modes/text"]}
    np.testing.assert_allclose(flex.predict(x, t, text, patch=patch).output, golden[f"modes/output_{name}"], atol=2e-5)
    if patch[0] > 1:
        odd = flex.predict(x[:, 1:], t, text, patch=patch).output
        np.testing.assert_allclose(odd, golden[f"modes/output_odd_{name}"], atol=2e-5)


def test_the_powerful_mode_is_the_published_network(flex: FlexiDiT, golden: dict[str, np.ndarray]) -> None:
    """Through shared kernels to rounding, through adapters to the bit."""
    _, params = read_wan(STATE, Sizes(num_heads=HEADS, latent=(4, 8, 8), length=16))
    plain = FlexiDiT(flex.model, flexify(params, PATCHES[:1]), Process(), Codec())
    adapted = plain.flexify(PATCHES, adapters=2)
    x, t, text = golden["latents"], golden["timestep"], {"tokens": golden["text"]}
    before, shared, apart = (one.predict(x, t, text).output for one in (plain, flex, adapted))
    np.testing.assert_array_equal(apart, before)
    assert np.abs(np.asarray(shared - before)).max() < 2e-6 * np.abs(np.asarray(before)).max()
    kernel = at(flex.params, (1, 2, 2))["embed"]["kernel"]
    np.testing.assert_allclose(kernel, params["embed"]["kernel"], atol=1e-6)
    np.testing.assert_allclose(flex.params["tokens"]["embed"]["kernel"], golden["modes/underlying_embed"], atol=1e-6)
    last = np.moveaxis(golden["modes/underlying_deembed"], -1, 0)  # as published: a row a number that is written
    np.testing.assert_allclose(flex.params["tokens"]["deembed"]["kernel"], last, atol=1e-6)


@pytest.mark.parametrize("packing", LAYOUTS[1:])
def test_tokens_turn_in_packed_rows_as_apart(flex: FlexiDiT, golden: dict[str, np.ndarray], packing: str) -> None:
    """Two modes in one row, whose tokens lie at different places."""
    modes, x, t = ((1, 2, 2), (2, 4, 4)), golden["modes/latents"].repeat(3, 0), np.full(1, 500.0)
    x = x * np.float32([1, 0.5, -1]).reshape(3, 1, 1, 1, 1)
    conds = [{"tokens": golden["modes/text"].repeat(3, 0) * scale, "null": np.zeros(3, bool)} for scale in (1, 2)]
    models, trees = [flex.model.at(patch) for patch in modes], [at(flex.params, patch) for patch in modes]

    @partial(jax.jit, static_argnums=0)
    def pair(packing: str) -> list:
        made = [
            m.apply({"params": p}, t, c, method="modulations") for m, p, c in zip(models, trees, conds, strict=True)
        ]
        return [one.output for one in predict_pair(packing, models, trees, x, t, conds, made)]

    for found, expected in zip(pair(packing), pair("separate"), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_sizes_that_do_not_fit(flex: FlexiDiT, golden: dict[str, np.ndarray]) -> None:
    text = {"tokens": golden["text"]}
    with pytest.raises(UserError) as caught:
        flex.predict(np.zeros((2, 3, 6, 8, 4), np.float32), np.zeros(2), text, patch=(1, 4, 4))
    assert str(caught.value).startswith("patch 4 does not divide the latent 3x6x8")
    with pytest.raises(UserError, match="patch 2x2x2 does not divide the latent 1x6x8"):
        flex.predict(np.zeros((2, 1, 6, 8, 4), np.float32), np.zeros(2), text, patch=(2, 2, 2))
