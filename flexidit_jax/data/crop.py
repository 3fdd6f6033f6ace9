"""Square crops: the one that ADM and DiT train on, and that of evaluations of text-to-image models."""

from __future__ import annotations

import numpy as np
from PIL import Image


def centre_crop(image: Image.Image, side: int) -> np.ndarray:
    """The middle square of an image, resized to `side`: uint8 [side, side, 3].

    Halved by box averaging while the shorter edge is at least twice `side`, then resized bicubically so
    that it equals `side`, then cropped (ADM, arXiv 2105.05233, code base).
    """
    image = image.convert("RGB")
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))


def centre_square(image: Image.Image, side: int) -> np.ndarray:
    """The middle square of an image at full size, then resized bicubically to `side`: uint8 [side, side, 3].

    What evaluations of text-to-image models do; on the way down Pillow's bicubic filter is as wide as it has to be.
    """
    image = image.convert("RGB")
    edge = min(image.size)
    left, top = (image.width - edge) // 2, (image.height - edge) // 2
    square = image.crop((left, top, left + edge, top + edge))
    return np.asarray(square.resize((side, side), Image.Resampling.BICUBIC))
