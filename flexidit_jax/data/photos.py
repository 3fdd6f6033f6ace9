"""What data sets of photographs share: DiT's centre crop in [-1, 1], the flip, and which bytes are no image."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from flexidit_jax.common.build import positive
from flexidit_jax.data.as_shown import in_8_bits
from flexidit_jax.data.corrupt import Corrupt, check_share
from flexidit_jax.data.crop import centre_crop


@dataclass(frozen=True)
class Photos:
    """The keys and the augmentation of a data set of photographs.

    Attributes:
      size: side of the crop in pixels.
      max_corrupt: share of the images that may be corrupt (see `data.corrupt`); they are skipped.
    """

    size: int = 256
    max_corrupt: float = 0.001

    def __post_init__(self) -> None:
        positive("dataset", size=self.size)
        check_share(self.max_corrupt)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(F, H, W, C) of a record."""
        return (1, self.size, self.size, 3)

    def augment(self, record: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Flips half of the images left to right."""
        return {**record, "x": record["x"][:, :, ::-1]} if rng.random() < 0.5 else record


def photo(
    data: bytes, label: int, size: int, name: str, read: Callable[[Image.Image], Image.Image] = in_8_bits
) -> dict[str, np.ndarray]:
    """The record of an image file: {"x": the centre crop, float32 [1, size, size, 3] in [-1, 1], "label": int32}.

    Args:
      read: what the pixels mean, a function of `data.as_shown`; raises where it cannot tell.

    Raises:
      Corrupt: `data` holds no whole image, or one whose pixels have no defined range.
    """
    try:
        pixels = centre_crop(read(Image.open(io.BytesIO(data))), size)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise Corrupt(name, "not an image" if data else "empty") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise Corrupt(name, " ".join(str(error).split()) or type(error).__name__) from None
    x = pixels / np.float32(127.5)
    x -= 1
    return {"x": x[None], "label": np.int32(label)}
