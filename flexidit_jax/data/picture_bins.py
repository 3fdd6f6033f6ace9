"""Which bin each picture is cropped to: the one of the nearest ratio of sides, as a viewer shows it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from flexidit_jax.common.aspect_bins import nearest_bins
from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.cores import cores
from flexidit_jax.common.progress import Progress
from flexidit_jax.data.captions import Pair
from flexidit_jax.data.corrupt import Corrupt
from flexidit_jax.data.photos import shown_size

#: headers that are handed to the readers at a time
_PIECE = 1024


def bins_of(folder: Path, pairs: Sequence[Pair], sizes: Sequence[tuple[int, int]], max_pixels: int) -> np.ndarray:
    """The numbers of bins, int32 [N]; headers are read of those pictures whose size nothing else says.

    One whose header says none is put where most are, and counts as corrupt when it is read.

    Args:
      sizes: height and width of every bin.
      max_pixels: of a picture.

    Raises:
      UserError: a picture cannot be read.
    """

    def header(number: int) -> tuple[int, int] | None:
        pair = pairs[number]
        try:
            with pair.at.open() as file:
                return shown_size(file, str(folder / pair.name), max_pixels)
        except Corrupt:
            return None
        except OSError as error:
            raise pair.at.unread(error.strerror) from None

    shown = [pair.size for pair in pairs]
    unknown = [number for number, size in enumerate(shown) if size is None]
    if unknown:
        enabled = cluster.first()
        with (
            Progress(len(unknown), "sizes", unit="pictures", enabled=enabled) as bar,
            ThreadPoolExecutor(4 * cores()) as pool,  # most of the time is waited for
        ):
            for first in range(0, len(unknown), _PIECE):
                piece = unknown[first : first + _PIECE]
                for number, size in zip(piece, pool.map(header, piece), strict=True):
                    shown[number] = size
                bar.advance(len(piece))
    ratios = np.array([np.nan if size is None else size[0] / size[1] for size in shown])
    bins = nearest_bins(sizes, ratios)
    known = ~np.isnan(ratios)
    if known.any():
        bins[~known] = np.bincount(bins[known]).argmax()
    return bins
