"""Images to the size that a network reads, each way as one of the field's tools has it; another is another number."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from flexidit_jax.common.cores import cores
from flexidit_jax.common.types import Array


def tensorflow1(images: Array, side: int) -> Array:
    """Bilinear as TensorFlow 1 had it: corners at the same place, no half pixel, no antialiasing.

    Args:
      images: [B, H, W, C].

    Returns:
      [B, side, side, C] float32, in the units of the images.
    """
    x = images.astype(jnp.float32)
    for axis in (2, 1):  # width first
        size = images.shape[axis]
        place = np.arange(side, dtype=np.float32) * np.float32(size / side)
        low = np.floor(place).astype(np.int32)
        share = (place - low).reshape((-1,) + (1,) * (3 - axis))
        below, above = (jnp.take(x, index, axis) for index in (low, np.minimum(low + 1, size - 1)))
        x = below + (above - below) * share
    return x


def half_pixel(images: Array, side: int) -> Array:
    """Bilinear with half pixels and without antialiasing, as torch's `interpolate`; see `tensorflow1`."""
    return jax.image.resize(images.astype(jnp.float32), _sized(images, side), "linear", antialias=False)


def bicubic(images: Array, side: int) -> Array:
    """Bicubic (a = -0.5) with antialiasing in float, as Pillow's of floats and torch's; see `tensorflow1`."""
    return jax.image.resize(images.astype(jnp.float32), _sized(images, side), "cubic")


def pillow_bicubic(images: np.ndarray, height: int, width: int) -> np.ndarray:
    """Pillow's bicubic of bytes, rounded and clipped after each pass: uint8 [B, H, W, 3] -> [B, height, width, 3]."""
    if images.shape[1:3] == (height, width):
        return images

    def one(image: np.ndarray) -> np.ndarray:
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))

    with ThreadPoolExecutor(cores()) as threads:  # Pillow lets go of the interpreter
        return np.stack([*threads.map(one, images)])


def standardised(images: Array, mean: Sequence[float], std: Sequence[float]) -> Array:
    """Pixels 0..255 -> 0..1, less the mean and over the standard deviation of a channel."""
    return (images / np.float32(255) - np.float32(mean)) / np.float32(std)


def centre(images: np.ndarray, side: int) -> np.ndarray:
    """The square of so many pixels in the middle of images [B, H, W, C]."""
    top, left = ((size - side) // 2 for size in images.shape[1:3])
    return images[:, top : top + side, left : left + side]


def _sized(images: Array, side: int) -> tuple[int, ...]:
    return (images.shape[0], side, side, images.shape[3])
