"""Crops: the one that ADM and DiT train on, of any sides, and that of evaluations of text-to-image models."""

from __future__ import annotations

import numpy as np
from PIL import Image


def centre_crop(image: Image.Image, side: int) -> np.ndarray:
    """The middle square of an image, resized to `side`: uint8 [side, side, 3]; see `covering_crop`."""
    return covering_crop(image, side, side)


def covering_crop(image: Image.Image, height: int, width: int) -> np.ndarray:
    """The middle of an image that is resized so as to cover the crop just so: uint8 [height, width, 3].

    Halved by box averaging while both edges are at least twice those of the crop, then resized bicubically so that one
    equals its own and the other is no shorter, then cropped (of a square ADM, arXiv 2105.05233, code base).
    """
    image = image.convert("RGB")
    while image.width >= 2 * width and image.height >= 2 * height:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(width / image.width, height / image.height)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return np.asarray(image.crop((left, top, left + width, top + height)))


def centre_square(image: Image.Image, side: int) -> np.ndarray:
    """The middle square of an image at full size, then resized bicubically to `side`: uint8 [side, side, 3].

    What evaluations of text-to-image models do; on the way down Pillow's bicubic filter is as wide as it has to be.
    """
    image = image.convert("RGB")
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    square = image.crop((left, top, left + edge, top + edge))
    return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))
