"""PixArt's bins: sizes of about as many pixels, one for every ratio of sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

#: (height, width) of bins of models for pictures of 256 pixels, of which others have multiples; no higher than wide
LOW = (
    *((128, 512), (128, 496), (128, 480), (128, 464), (144, 448), (144, 432), (144, 416), (160, 400), (160, 384)),
    *((176, 368), (176, 352), (176, 336), (192, 336), (192, 320), (208, 304), (208, 288), (224, 288), (224, 272)),
    *((240, 272), (240, 256), (256, 256)),
)
#: all of them: one has no counterpart
BINS = LOW + tuple((w, h) for h, w in LOW if h < w and (h, w) != (176, 336))
#: side of the pictures that these are for
SIDE = 256


def bins(side: int, units: Sequence[int]) -> list[tuple[int, int]]:
    """(height, width) of the bins of pictures of so many pixels.

    Args:
      side: of a square of as many pixels.
      units: what heights and widths must be multiples of; bins that are none are left out.
    """
    sizes = [(h * side // SIDE, w * side // SIDE) for h, w in BINS if h * side % SIDE == w * side % SIDE == 0]
    return [size for size in sizes if not any(one % unit for one, unit in zip(size, units, strict=True))]


def nearest_bins(sizes: Sequence[tuple[int, int]], ratios: Any) -> np.ndarray:
    """The number of the bin whose key is nearest to each ratio, heights over widths: int32 [N]."""
    ratios = np.asarray(ratios, np.float64)
    keys = [round(height / width, 2) for height, width in sizes]  # which are known to 1/100
    nearest, least = np.zeros(len(ratios), np.int32), np.full(len(ratios), np.inf)
    for number, key in enumerate(keys):  # a bin at a time: there are millions of ratios
        away = np.abs(key - ratios)
        nearest[away < least] = number
        least = np.minimum(away, least)
    return nearest
