"""What data sets of photographs share: DiT's centre crop in [-1, 1], the flip, and which bytes are no image."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from flexidit_jax.common.build import positive
from flexidit_jax.data.as_shown import in_8_bits, turned_on_its_side
from flexidit_jax.data.corrupt import Corrupt, check_share
from flexidit_jax.data.crop import covering_crop
from flexidit_jax.data.picture_kinds import formats

#: pixels of a picture that Pillow refuses to go beyond unless it is told
MAX_PIXELS = 178_956_970
_OPENING = threading.Lock()


@dataclass(frozen=True)
class Photos:
    """The keys and the augmentation of a data set of photographs.

    Attributes:
      size: side of the crop in pixels.
      max_corrupt: share of the images that may be corrupt (see `data.corrupt`); they are skipped.
      max_pixels: width times height of the largest image that is read; a larger one counts as corrupt.
    """

    size: int = 256
    max_corrupt: float = 0.001
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        positive("dataset", size=self.size, max_pixels=self.max_pixels)
        check_share(self.max_corrupt)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(F, H, W, C) of a record."""
        return (1, self.size, self.size, 3)

    def augment(self, record: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Flips half of the images left to right."""
        return {**record, "x": record["x"][:, :, ::-1]} if rng.random() < 0.5 else record


def photo(
    data: bytes,
    label: int,
    size: int,
    name: str,
    read: Callable[[Image.Image], Image.Image] = in_8_bits,
    max_pixels: int = MAX_PIXELS,
) -> dict[str, np.ndarray]:
    """The record of an image file: {"x": see `pixels`, of a square of side `size`, "label": int32}.

    Raises:
      Corrupt: see `pixels`.
    """
    return {"x": pixels(data, (size, size), name, read, max_pixels), "label": np.int32(label)}


def pixels(
    data: bytes,
    size: tuple[int, int],
    name: str,
    read: Callable[[Image.Image], Image.Image] = in_8_bits,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """The centre crop of an image file, float32 [1, height, width, 3] in [-1, 1].

    Args:
      size: height and width.
      name: what a user would look for.
      read: what the pixels mean, a function of `data.as_shown`; raises where it cannot tell.
      max_pixels: of the whole image.

    Raises:
      Corrupt: `data` holds no whole image, one of too many pixels, as it is or enlarged to the crop, or one whose
        pixels have no defined range.
    """
    with _damage_named(name, bool(data)):
        image = _opened(io.BytesIO(data), max_pixels)
        if (count := image.width * image.height) > max_pixels:  # which the header says: nothing is decoded yet
            raise Corrupt(name, f"{count:,} pixels, more than dataset.max_pixels={max_pixels} admits")
        image = read(image)
        scale = max(1, size[0] / image.height, size[1] / image.width)
        if (count := round(image.width * image.height * scale**2)) > max(max_pixels, MAX_PIXELS):  # a line of pixels
            raise Corrupt(name, f"{image.width} x {image.height} pixels, {count:,} where they cover the crop")
        crop = covering_crop(image, *size)
    x = crop / np.float32(127.5)
    x -= 1
    return x[None]


def shown_size(file: BinaryIO, name: str, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Height and width of an image as a viewer shows it, off its header.

    Raises:
      Corrupt: it has none that can be read.
      OSError: the file cannot be.
    """
    with _damage_named(name):
        image = _opened(file, max_pixels)
        return image.size if turned_on_its_side(image) else image.size[::-1]


@contextmanager
def _damage_named(name: str, filled: bool = True) -> Iterator[None]:
    """Whatever is raised of an image that cannot be decoded becomes `Corrupt`."""
    try:
        yield
    except (MemoryError, Corrupt):
        raise
    except UnidentifiedImageError:
        raise Corrupt(name, "not an image" if filled else "empty") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise Corrupt(name, " ".join(str(error).split()) or type(error).__name__) from None


def _opened(file: BinaryIO, max_pixels: int) -> Image.Image:
    """The image before it is decoded, however large.

    Pillow has one limit for the whole process, warns above it and refuses only what is twice as large. It is put aside
    for the moment of opening; afterwards, for pictures within pictures, it is at least ours.
    """
    with _OPENING:
        kept, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            return Image.open(file, formats=formats())
        finally:
            Image.MAX_IMAGE_PIXELS = kept and max(kept, max_pixels)
