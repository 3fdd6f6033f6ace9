"""Captioned images: files with `metadata.jsonl`, `.csv` or a text each, tar shards of webdataset, COCO's JSON."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.aspect_bins import bins
from flexidit_jax.common.build import positive
from flexidit_jax.common.errors import UserError
from flexidit_jax.data.as_shown import as_shown
from flexidit_jax.data.captioned_folder import captioned_folder
from flexidit_jax.data.captions import Pair, Pairs
from flexidit_jax.data.corrupt import Intact
from flexidit_jax.data.held_out import NONE, check_held_out, digest, kept_out, nothing_kept
from flexidit_jax.data.left_out import several
from flexidit_jax.data.listing import there
from flexidit_jax.data.photos import Photos, pixels
from flexidit_jax.data.picture_bins import bins_of
from flexidit_jax.data.tar_shards import captioned_shards, named_shards, shards_of

#: what a record says of its captions
Says = Callable[[tuple[str, ...]], dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Dataset(Photos):
    """Crops of pictures as a viewer shows them (see `data.as_shown`), each with one caption or several.

    A picture without a caption and a caption without a picture are counted and named, and not trained on; so are
    captions that are empty, no text in UTF-8, or disagree where several places speak of a picture.

    Attributes:
      size, max_corrupt, max_pixels: see `data.photos.Photos`.
      path: a folder of pictures with captions beside them, at any depth; or `.tar` shards, `{00000..00099}.tar`, one,
        or a folder of them.
      caption: the column of captions in `metadata.jsonl`, `metadata.csv` or a shard's `.json`; or the ending of texts
        beside pictures, such as ".txt". None: the first of text, caption and prompt, and `.txt` and `.caption`.
      captions: a file of captions that lies elsewhere, whose names are relative to `path`: `.jsonl`, `.csv`, COCO's
        JSON, or a JSON list. None: those that lie beside the pictures.
      bins: whether pictures are cropped to the nearest of PixArt's bins instead of to squares.
      unit: of bins, what their sides are multiples of, in pixels: those of a latent times the largest patch.
      flip: whether half of the images are mirrored; captions say left and right.
      validation: as `path`, never trained on.
      validation_captions: as `captions`, of `validation`.
      held_out_share: without `validation`, the share kept from training, evenly along the names.
    """

    path: str
    caption: str | None = None
    captions: str | None = None
    bins: bool = False
    unit: int = 32
    flip: bool = False
    validation: str | None = None
    validation_captions: str | None = None
    held_out_share: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("dataset", unit=self.unit)
        check_held_out(self.held_out_share, self.validation)
        if self.validation_captions is not None and self.validation is None:
            raise UserError("dataset.validation_captions are of dataset.validation, which is not set")
        if self.bins and self.size % self.unit:
            raise UserError(
                f"dataset.bins wants a dataset.size that dataset.unit={self.unit} divides, such as 256, got {self.size}"
            )

    @property
    def shapes(self) -> tuple[tuple[int, int, int, int], ...] | None:
        """(F, H, W, C) of a record of each bin; None where all are squares."""
        return tuple((1, *size, 3) for size in self._bins) if self.bins else None

    def source(self) -> Sequence[dict[str, Any]]:
        """The training records {"x", "texts"}; with `bins` they have theirs.

        Raises:
          UserError: no pictures with captions; see `data.captioned_folder` and `data.tar_shards`; or as for
            `held_out`, where that is asked for.
        """
        if self._holds_out:
            self.held_out()  # refused now, and not when the training is over
        return self._records(self._found, self._trained, self._trained_bins, lambda texts: {"texts": texts})

    def held_out(self) -> Sequence[dict[str, Any]]:
        """The records {"x", "text"} of `validation`, or those kept from training, each with its first caption.

        Raises:
          UserError: there are none, or as for `source`.
        """
        found = self._found if self.validation is None else self._validation
        first = [pair._replace(captions=pair.captions[:1]) for pair in self._held_out]
        return self._records(found, first, self._held_out_bins, lambda texts: {"text": texts[0]})

    def augment(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Takes one of the captions, and with `flip` mirrors half of the images."""
        texts = record["texts"]
        drawn = {"x": record["x"], "text": texts[rng.integers(len(texts))]}
        return super().augment(drawn, rng) if self.flip else drawn

    def fingerprint(self, held_out: bool = False) -> str | None:
        """A hash of names and captions of all training images, or of those held out; wherever they are.

        Returns:
          None where they are not there.

        Raises:
          UserError: see `source` and `held_out`.
        """
        paths = (self.path, self.validation if held_out else None)
        if not all(_there(path) for path in paths if path is not None):
            return None
        pairs = self._held_out if held_out else self._trained
        return digest("\0".join((pair.name, *pair.captions)) for pair in pairs)

    def summary(self) -> str:
        """How many images and captions there are, how many are held out, and what is left out and why.

        Raises:
          UserError: see `source` and `held_out`.
        """
        found = self._found
        if self.validation is not None:
            other = self._validation
            return f"{_said(found.pairs)}{found.left_out}; held out: {_said(other.pairs)}{other.left_out}"
        kept = f"{len(self._held_out):,} of them held out" if self._holds_out else NONE
        return f"{_said(found.pairs)}, {kept}{found.left_out}"

    def _records(
        self, found: Pairs, pairs: list[Pair], bins: np.ndarray | None, said: Says
    ) -> Sequence[dict[str, Any]]:
        sizes = self._bins if self.bins else [(self.size, self.size)]
        return Intact(_Crops(found.folder, pairs, said, sizes, bins, self.max_pixels), self.max_corrupt)

    def _bins_of(self, found: Pairs, pairs: list[Pair]) -> np.ndarray | None:
        return bins_of(found.folder, pairs, self._bins, self.max_pixels) if self.bins else None

    @property
    def _holds_out(self) -> bool:
        return self.validation is not None or self.held_out_share > 0

    @cached_property
    def _bins(self) -> list[tuple[int, int]]:
        return bins(self.size, (self.unit, self.unit))

    @cached_property
    def _found(self) -> Pairs:
        return _pairs(self.path, "path", self.caption, self.captions)

    @cached_property
    def _validation(self) -> Pairs:
        return _pairs(self.validation, "validation", self.caption, self.validation_captions)

    @cached_property
    def _trained(self) -> list[Pair]:
        return [pair for i, pair in enumerate(self._found.pairs) if not kept_out(i, self.held_out_share)]

    @cached_property
    def _trained_bins(self) -> np.ndarray | None:
        return self._bins_of(self._found, self._trained)

    @cached_property
    def _held_out_bins(self) -> np.ndarray | None:
        return self._bins_of(self._found if self.validation is None else self._validation, self._held_out)

    @cached_property
    def _held_out(self) -> list[Pair]:
        if self.validation is not None:
            return self._validation.pairs
        if kept := [pair for i, pair in enumerate(self._found.pairs) if kept_out(i, self.held_out_share)]:
            return kept
        raise nothing_kept(self.path, self.held_out_share, "other captioned images")


class _Crops(Sequence):
    """Pictures, read, decoded and cropped when they are asked for.

    Attributes:
      bins: int32 [len], the number of the bin of each; there where there are several.
      texts: the captions of each.
    """

    def __init__(
        self,
        folder: Path,
        pairs: Sequence[Pair],
        said: Says,
        sizes: Sequence[tuple[int, int]],
        bins: np.ndarray | None,
        max_pixels: int,
    ) -> None:
        self._folder, self._pairs, self._said, self._sizes, self.bins = folder, pairs, said, sizes, bins
        self._max_pixels = max_pixels
        self.texts = [pair.captions for pair in pairs]

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, i: int) -> dict[str, Any]:
        pair = self._pairs[i]
        size = self._sizes[0 if self.bins is None else self.bins[i]]
        x = pixels(pair.at.read(), size, str(self._folder / pair.name), as_shown, self._max_pixels)
        return {"x": x, **self._said(pair.captions)}


def _there(path: str) -> bool:
    return there(path) or any(file.is_file() for file in named_shards(os.path.expanduser(path)))


def _said(pairs: Sequence[Pair]) -> str:
    captions = sum(len(pair.captions) for pair in pairs)
    return f"{several(len(pairs), 'image')} with {several(captions, 'caption')}"


def _pairs(path: str, key: str, caption: str | None, captions: str | None) -> Pairs:
    """What there is at `dataset.<key>`.

    Raises:
      UserError: no pictures with captions; the message says what lies where.
    """
    place, told = os.path.expanduser(path), None if captions is None else Path(captions).expanduser()
    found, problem = None, "holds no pictures with captions"
    try:
        if shards := shards_of(place):
            if told is not None:
                raise UserError(f"dataset.{key}={path} are shards, whose captions lie within; leave {captions} out")
            found = captioned_shards(shards, caption)
        else:
            found = captioned_folder(Path(place), caption, told)
    except OSError as error:
        problem = f"cannot be listed ({error.strerror})"
    if found is not None and found.pairs:
        return found
    raise UserError(
        f"dataset.{key}={path} {problem}{found.left_out if found else ''}; it must hold pictures with a text beside"
        ' each, such as cat.png and cat.txt, or with a metadata.jsonl of lines {"file_name": "cat.png", "text": "a'
        ' cat"}, or .tar shards'
    )
