"""Which bin each picture is cropped to: the one of the nearest ratio of sides, as a viewer shows it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from flexidit_jax.common.aspect_bins import nearest_bins
from flexidit_jax.data.captions import Pair
from flexidit_jax.data.headers import headers
from flexidit_jax.data.photos import shown_size


def bins_of(folder: Path, pairs: Sequence[Pair], sizes: Sequence[tuple[int, int]], max_pixels: int) -> np.ndarray:
    """The numbers of bins, int32 [N]; headers are read of those pictures whose size nothing else says.

    One whose header says none is put where most are, and counts as corrupt when it is read.

    Args:
      sizes: height and width of every bin.
      max_pixels: of a picture.

    Raises:
      UserError: a picture cannot be read.
    """

    def read(file: BinaryIO, name: str) -> tuple[int, int]:
        return shown_size(file, name, max_pixels)

    unknown = iter(headers(folder, [pair for pair in pairs if pair.size is None], read, "pictures"))
    shown = [next(unknown) if pair.size is None else pair.size for pair in pairs]
    ratios = np.array([np.nan if size is None else size[0] / size[1] for size in shown])
    bins = nearest_bins(sizes, ratios)
    known = ~np.isnan(ratios)
    if known.any():
        bins[~known] = np.bincount(bins[known]).argmax()
    return bins
