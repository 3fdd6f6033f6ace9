"""Crops that cover: of what a picture has in its middle, and nothing stretched."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from flexidit_jax.data.crop import centre_crop, covering_crop


@pytest.mark.parametrize(
    ("size", "crop"), [((90, 40), (20, 30)), ((40, 90), (20, 30)), ((33, 21), (20, 48)), ((7, 9), (12, 12))]
)
def test_a_crop_covers_and_keeps_ratios(size: tuple[int, int], crop: tuple[int, int]) -> None:
    """A picture whose red says how far right of its middle a pixel is, and whose green how far below, in the crop's."""
    width, height = size
    down, across = np.mgrid[:height, :width] + 0.5
    scale = max(crop[1] / width, crop[0] / height)  # pixels of the crop a pixel
    place = [(across - width / 2) * scale, (down - height / 2) * scale]
    image = np.stack([*(np.clip(128 + 4 * one, 0, 255) for one in place), 0 * down], axis=-1)
    found = covering_crop(Image.fromarray(image.astype(np.uint8)), *crop).astype(float)
    assert found.shape == (*crop, 3)
    rows, columns = np.mgrid[: crop[0], : crop[1]] + 0.5
    for channel, wanted in enumerate([columns - crop[1] / 2, rows - crop[0] / 2]):
        told = np.abs(wanted) < 25  # what eight bits hold
        assert np.abs(found[..., channel] - (128 + 4 * wanted))[told].max() < 5


def test_a_picture_is_halved_only_where_both_sides_allow_it() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (25, 90, 3), np.uint8))
    wanted = np.asarray(image.resize((72, 20), Image.Resampling.BICUBIC).crop((21, 0, 51, 20)))
    np.testing.assert_array_equal(covering_crop(image, 20, 30), wanted)
    large = image.resize((180, 50), Image.Resampling.NEAREST)  # whose halves are that image
    np.testing.assert_array_equal(covering_crop(large, 20, 30), wanted)


def test_a_square_is_the_crop_of_before() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8))
    np.testing.assert_array_equal(centre_crop(image, 16), covering_crop(image, 16, 16))
