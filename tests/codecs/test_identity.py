"""Pixels as latents."""

from __future__ import annotations

import numpy as np

from flexidit_jax.codecs.identity import Codec


def test_every_byte_survives() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(2, 1, 8, 16, 1)
    latents = Codec().encode((images / 127.5 - 1).astype(np.float32))
    assert latents.shape == images.shape
    decoded = Codec().decode(latents)
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, images)


def test_decoding_truncates_and_clips() -> None:
    """`clip(127.5 x + 128, 0, 255)`, truncated."""
    latents = np.array([-9.0, -1.0, -0.999, 0.0, 0.004, 0.99, 1.0, 9.0], np.float32)
    np.testing.assert_array_equal(Codec().decode(latents), [0, 0, 0, 128, 128, 254, 255, 255])


def test_encoding_keeps_the_values() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (1, 2, 4, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(Codec().encode(x), x)
    assert Codec().latent_shape((2, 4, 4, 3)) == (2, 4, 4, 3)


def test_data_has_the_shape_of_latents() -> None:
    codec = Codec()
    assert codec.data_shape(codec.latent_shape((2, 8, 8, 3))) == (2, 8, 8, 3)
    assert codec.fingerprint() is None
