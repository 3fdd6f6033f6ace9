"""Captioned images: files with `metadata.jsonl`, `.csv` or a text each, tar shards of webdataset, COCO's JSON."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from flexidit_jax.common.aspect_bins import bins
from flexidit_jax.common.build import positive
from flexidit_jax.common.errors import UserError
from flexidit_jax.data.as_shown import as_shown
from flexidit_jax.data.captions import Kind, Pair, Pairs
from flexidit_jax.data.photos import Photos, pixels
from flexidit_jax.data.picture_bins import bins_of
from flexidit_jax.data.picture_kinds import endings
from flexidit_jax.data.with_captions import Binned, WithCaptions


@dataclass(frozen=True, kw_only=True)
class Dataset(WithCaptions, Photos):
    """Crops of pictures as a viewer shows them (see `data.as_shown`), each with one caption or several.

    Attributes:
      size, max_pixels: see `data.photos.Photos`.
      path, caption, captions, flip, max_corrupt: see `data.with_captions.WithCaptions`.
      validation, validation_captions, held_out_share: see `data.with_captions.WithCaptions`.
      bins: whether pictures are cropped to the nearest of PixArt's bins instead of to squares.
      unit: of bins, what their sides are multiples of, in pixels: those of a latent times the largest patch.
    """

    bins: bool = False
    unit: int = 32

    def __post_init__(self) -> None:
        Photos.__post_init__(self)
        positive("dataset", unit=self.unit)
        WithCaptions.__post_init__(self)
        if self.bins and self.size % self.unit:
            raise UserError(
                f"dataset.bins wants a dataset.size that dataset.unit={self.unit} divides, such as 256, got {self.size}"
            )

    @property
    def kind(self) -> Kind:
        """See `data.with_captions.WithCaptions`."""
        return images()

    @property
    def shapes(self) -> tuple[tuple[int, int, int, int], ...] | None:
        """(F, H, W, C) of a record of each bin; None where all are squares."""
        return tuple((1, *size, 3) for size in self._sizes) if self.bins else None

    def binned(self, found: Pairs) -> Binned:
        """See `data.with_captions.WithCaptions`; with `bins` headers of pictures are read."""
        return Binned(found, bins_of(found.folder, found.pairs, self._sizes, self.max_pixels) if self.bins else None)

    def opened(self, pair: Pair, name: str, bin: int) -> np.ndarray:
        """See `data.with_captions.WithCaptions`."""
        return pixels(pair.at.read(), self._sizes[bin], name, as_shown, self.max_pixels)

    @cached_property
    def _sizes(self) -> list[tuple[int, int]]:
        return bins(self.size, (self.unit, self.unit)) if self.bins else [(self.size, self.size)]


def images() -> Kind:
    """Pictures, as what has captions."""
    return Kind("an image", "cat.png", endings())
