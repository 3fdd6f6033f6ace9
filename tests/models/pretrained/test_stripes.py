"""Convolutions in stripes are those of the whole image, and hold less at once."""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.models.attention import xla
from flexidit_jax.models.pretrained import stripes
from flexidit_jax.models.pretrained.autoencoder_kl import VAE
from flexidit_jax.models.pretrained.stripes import Conv, GroupNorm, Moments, rows_of_stripe

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
    both = jax.jit(lambda x: (ours.apply(params, x)(x), theirs.apply(params, x)))(X)
    np.testing.assert_allclose(*both, atol=1e-5)


@pytest.mark.parametrize(
    ("side", "double", "normed", "onto"),
    [
        (3, False, False, False),
        (3, True, False, False),
        (3, False, True, True),
        (3, True, True, True),
        (1, False, True, False),
        (1, True, False, True),
    ],
)
def test_stripes_equal_the_whole(
    striped: None, monkeypatch: pytest.MonkeyPatch, side: int, double: bool, normed: bool, onto: bool
) -> None:
    conv = Conv(6, jnp.float32, side=side, double=double)
    moments = Moments(*np.random.default_rng(1).uniform(1, 2, (3, 2, 1, 1, 8)).astype(np.float32)) if normed else None
    rng = np.random.default_rng(2)
    shapes = {"kernel": (side, side, 8, 6), "bias": (6,)}
    params = {"params": {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}}
    times = 2 if double else 1
    below = np.ones((2, 12 * times, 10 * times, 6), np.float32) if onto else None
    parts = jax.jit(conv.apply)(params, X, moments, below)
    monkeypatch.setattr(stripes, "WHOLE", 2**18)
    whole = jax.jit(lambda *arrays: conv.apply(*arrays))(params, X, moments, below)  # another function: traced anew
    np.testing.assert_allclose(parts, whole, atol=2e-5)


def test_a_large_picture_is_decoded_in_less_memory_to_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    vae = VAE(widths=(16, 32, 32), resnets=1, groups=4)
    shapes = jax.eval_shape(vae.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 5, shapes)
    z = rng.normal(size=(1, 24, 40, 4)).astype(np.float32)
    images, held = [], []
    for whole, scores in ((2**18, 2**28), (2**10, 2**18)):
        monkeypatch.setattr(stripes, "WHOLE", whole)
        monkeypatch.setattr(stripes, "STRIPE", 2**10)
        monkeypatch.setattr(xla, "MOST_SCORES", scores)
        program = jax.jit(partial(vae.apply, method="decode")).lower({"params": params}, z).compile()
        images.append(program({"params": params}, z))
        held.append(program.memory_analysis().temp_size_in_bytes)
    assert images[0].shape == (1, 96, 160, 3)
    assert np.abs(images[0] - images[1]).max() < 1e-4 * np.abs(images[0]).max()
    assert held[1] < 0.75 * held[0]
