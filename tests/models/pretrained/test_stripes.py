"""Convolutions in stripes are those of the whole image, and hold less at once."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.models.pretrained import stripes
from flexidit_jax.models.pretrained.autoencoder_kl import VAE
from flexidit_jax.models.pretrained.stripes import Conv, GroupNorm, rows_of_stripe

X = np.random.default_rng(0).normal(size=(2, 12, 10, 8)).astype(np.float32) + 3


@pytest.fixture
def striped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of more than 20 pixels are large, a stripe has up to 40."""
    monkeypatch.setattr(stripes, "WHOLE", 20)
    monkeypatch.setattr(stripes, "STRIPE", 40)


@pytest.mark.parametrize(
    ("height", "width", "rows"),
    [
        (512, 512, 512),
        (1024, 1024, 64),
        (2048, 2048, 32),
        (1016, 520, 8),
        (1021, 300, 1),
        (8, 2**17, 1),
        (513, 512, 57),
    ],
)
def test_rows_of_a_stripe(height: int, width: int, rows: int) -> None:
    assert rows_of_stripe(height, width) == rows


def test_a_group_norm_is_that_of_flax() -> None:
    ours, theirs = GroupNorm(4), nn.GroupNorm(4, epsilon=1e-6, use_fast_variance=False)
    params = {"params": {"scale": np.linspace(0.5, 2, 8, dtype=np.float32), "bias": np.arange(8, dtype=np.float32)}}
    np.testing.assert_allclose(ours.apply(params, X)(X), theirs.apply(params, X), atol=1e-5)


@pytest.mark.parametrize("side", [1, 3])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("onto", [False, True])
def test_stripes_equal_the_whole(
    striped: None, monkeypatch: pytest.MonkeyPatch, side: int, double: bool, normed: bool, onto: bool
) -> None:
    conv = Conv(6, jnp.float32, side=side, double=double)
    moments = GroupNorm(2).apply({"params": {"scale": np.ones(8), "bias": np.full(8, 0.5)}}, X) if normed else None
    params = conv.init(jax.random.key(0), X[:, :1, :1])
    times = 2 if double else 1
    below = np.ones((2, 12 * times, 10 * times, 6), np.float32) if onto else None
    parts = conv.apply(params, X, moments, below)
    monkeypatch.setattr(stripes, "WHOLE", 2**18)
    np.testing.assert_allclose(parts, conv.apply(params, X, moments, below), atol=2e-6)


def test_a_large_picture_is_decoded_in_less_memory_to_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar is a 255th of the range of pixels, 2 / 255."""
    vae = VAE(widths=(16, 16, 16, 16), resnets=1, groups=4)
    shapes = jax.eval_shape(vae.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 5, shapes)
    z = rng.normal(size=(1, 12, 20, 4)).astype(np.float32)
    images, held = [], []
    for whole in (2**18, 2**10):
        monkeypatch.setattr(stripes, "WHOLE", whole)
        monkeypatch.setattr(stripes, "STRIPE", 2**10)
        program = jax.jit(partial(vae.apply, method="decode")).lower({"params": params}, z).compile()
        images.append(program({"params": params}, z))
        held.append(program.memory_analysis().temp_size_in_bytes)
    assert images[0].shape == (1, 96, 160, 3)
    assert np.abs(images[0] - images[1]).max() < 1e-4 * np.abs(images[0]).max()
    assert held[1] < 0.75 * held[0]
