"""Captioned clips: files with `metadata.jsonl`, `.csv` or a text each, tar shards of webdataset, decoded by `av`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from flexidit_jax.common.build import positive
from flexidit_jax.common.errors import UserError
from flexidit_jax.data.captions import Kind, Pair, Pairs
from flexidit_jax.data.clip_bins import NONE, bins_of
from flexidit_jax.data.clip_file import ENDINGS, check_av, read
from flexidit_jax.data.left_out import several
from flexidit_jax.data.with_captions import Binned, WithCaptions

#: frames that a latent is of, behind the first
_STEP = 4


@dataclass(frozen=True, kw_only=True)
class Dataset(WithCaptions):
    """The beginnings of clips as a player shows them (see `data.clip_file`), each with one caption or several.

    A clip of fewer frames than any bin is counted and named, and not trained on.

    Attributes:
      path, caption, captions, flip, max_corrupt: see `data.with_captions.WithCaptions`.
      validation, validation_captions, held_out_share: see `data.with_captions.WithCaptions`.
      frames: of a record, one more than a multiple of 4.
      height, width: of a record in pixels; a clip is resized until it covers that, and its middle is cropped.
      fps: frames a second at which clips are read, whatever their own.
      bins: more shapes (frames, height, width), of which each clip has the nearest that it is long enough for.
    """

    frames: int = 81
    height: int = 480
    width: int = 832
    fps: float = 16
    bins: Sequence[Sequence[int]] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("dataset", fps=self.fps)
        _check((self.frames, self.height, self.width), "dataset.frames, height and width")
        for one in self.bins if isinstance(self.bins, Sequence) else [self.bins]:
            _check(one, "all of dataset.bins")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(F, H, W, C) of a record of the first bin."""
        return (self.frames, self.height, self.width, 3)

    @property
    def shapes(self) -> tuple[tuple[int, int, int, int], ...] | None:
        """(F, H, W, C) of a record of each bin; None where there is one."""
        return tuple((*one, 3) for one in self._bins) if self.bins else None

    @property
    def kind(self) -> Kind:
        """See `data.with_captions.WithCaptions`."""
        return Kind("a clip", "cat.mp4", ENDINGS)

    def binned(self, found: Pairs) -> Binned:
        """See `data.with_captions.WithCaptions`; headers of clips are read, and those too short are left out."""
        check_av()
        numbers = bins_of(found.folder, found.pairs, self._bins, self.fps)
        least = f"{min(frames for frames, _, _ in self._bins)} frames at {self.fps:g} a second"
        for pair in (found.pairs[i] for i in np.flatnonzero(numbers == NONE)):
            found.left_out.add(f"clip shorter than {least}", pair.name)
        long = np.flatnonzero(numbers != NONE)
        if not len(long):
            raise UserError(
                f"of {several(len(found.pairs), 'clip')} of {found.folder} none has {least}{found.left_out}; set"
                " dataset.frames or a bin of dataset.bins to fewer, or hold others out"
            )
        pairs = [found.pairs[i] for i in long]
        return Binned(replace(found, pairs=pairs), numbers[long] if self.bins else None)

    def opened(self, pair: Pair, name: str, bin: int) -> np.ndarray:
        """See `data.with_captions.WithCaptions`."""
        frames, *size = self._bins[bin]
        try:
            with pair.at.open() as file:
                return read(file, name, frames, tuple(size), self.fps)
        except OSError as error:
            raise pair.at.unread(error.strerror) from None

    @cached_property
    def _bins(self) -> list[tuple[int, int, int]]:
        return [(self.frames, self.height, self.width), *map(tuple, self.bins)]


def _check(bin: Sequence[int], where: str) -> None:
    """Refuses what is no shape of a clip."""
    if not isinstance(bin, Sequence) or len(bin) != 3 or not all(isinstance(one, int) and one > 0 for one in bin):
        raise UserError(f"{where} must be three whole numbers above 0, such as (81, 480, 832), got {bin!r}")
    frames = bin[0]
    if more := (frames - 1) % _STEP:
        near = f"{frames - more} or {frames - more + _STEP}"
        raise UserError(f"{where} say {frames} frames; clips have one more than a multiple of {_STEP}, such as {near}")
