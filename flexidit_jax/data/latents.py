"""Latents that `--mode=encode` made of another dataset, as the posterior (mean, std) of every image.

    <path>/train/manifest.json                     what the records depend on, and their layout
    <path>/train/shards/000000.array_record        records 0 .. shard - 1, one after another
    <path>/train/64x96/manifest.json ...           of images of several shapes, those of one
    <path>/train/texts/...                         features of all captions (`data.text_features`)
    <path>/held_out/...                            likewise, where it was asked for

A record is one element of a numpy structured dtype, little-endian: `mean` and `std` [F, h, w, C], unscaled,
`flipped_mean` and `flipped_std` of the mirrored image where the dataset mirrors (never of a held-out one), then the
other fields of the dataset's record, for captions their numbers (`data.numbered_texts`). Nothing is drawn or scaled
here: the codec's `draw` does both, once, for every step anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.config import NO_DEFAULTS, difference
from flexidit_jax.common.errors import UserError
from flexidit_jax.data import numbered_texts
from flexidit_jax.data.bins import Joined
from flexidit_jax.data.numbered_texts import TEXTS
from flexidit_jax.data.text_features import TextFeatures
from flexidit_jax.runs.record_shards import absent, opened, parts_of

#: folders of the two parts of a dataset
TRAIN, HELD_OUT = "train", "held_out"
#: before the fields of the mirrored image
FLIPPED = "flipped_"
MANIFEST = "manifest.json"
MAKES = "the same command with --mode=encode makes them"


class Dataset:
    """Records {"mean", "std", ...} of an encoded dataset, whose shape and classes these are.

    Args:
      path: the folder that `--mode=encode` writes; nothing is read before `source` or `held_out`.
      of: the section of the dataset that is encoded.
    """

    def __init__(self, path: str, of: Mapping[str, Any]) -> None:
        self.path, self._section = path, of
        self.of = build.part("flexidit_jax.data", "Dataset", of, "dataset.of")
        if isinstance(self.of, Dataset):
            raise UserError("dataset.of must name the dataset of images, not latents again")

    @property
    def shape(self) -> tuple[int, ...]:
        """(F, H, W, C) of the data that the latents were made of."""
        return self.of.shape

    @property
    def shapes(self) -> Sequence[tuple[int, ...]]:
        """Those of the dataset encoded."""
        return getattr(self.of, "shapes", None) or (self.shape,)

    @property
    def classes(self) -> int:
        """Of the dataset encoded, where it has some."""
        return self.of.classes

    @property
    def names(self) -> Sequence[str] | None:
        """What the classes are called: as the dataset encoded has it, or had it when its images were there."""
        names = getattr(self.of, "names", None)
        folder, *_ = self._folders(TRAIN)
        return _manifest(folder)["names"] if names is None and (folder / MANIFEST).exists() else names

    def source(self) -> Sequence[dict[str, np.ndarray]]:
        """The training records {"mean", "std", "label", ...}, captions as numbers of their features.

        Raises:
          UserError: they are not there, or not all; or they are of other images than are there now.
        """
        return self._part(TRAIN)

    def held_out(self) -> Sequence[dict[str, np.ndarray]]:
        """Records of the held-out images, with features of their first captions.

        Raises:
          UserError: see `source`.
        """
        records = self._part(HELD_OUT)
        return numbered_texts.First(records, self._features(HELD_OUT)) if TEXTS in records.fields else records

    def fingerprint(self, held_out: bool = False) -> str | None:
        """That of the images that these are latents of, see `data.folder`; None where their dataset has none.

        Raises:
          UserError: there are no latents. Whether they are all there, and of the images there now, `source` tells.
        """
        return _manifest(self._folders(HELD_OUT if held_out else TRAIN)[0])["images"]

    @cached_property
    def features(self) -> TextFeatures | None:
        """Those of the training captions; None of a dataset without any.

        Raises:
          UserError: they are not there, or not all.
        """
        return self._features(TRAIN) if TEXTS in self._part(TRAIN).fields else None

    def check_origin(self, made: Mapping[str, Any], defaults: Mapping[str, Any] = NO_DEFAULTS) -> None:
        """Refuses latents of another dataset or codec.

        Args:
          made: what latents depend on, as the config says it; see `runs.binding.origin`.
          defaults: what a word means that is left out.

        Raises:
          UserError: the first word on which they differ.
        """
        there = _manifest(self._folders(TRAIN)[0])
        differs = difference(made, {key: there[key] for key in made}, defaults)
        if differs is not None:
            key, ours, theirs = differs
            raise UserError(
                f"{self.path} holds latents made with other words: {key} is {theirs!r} there, {ours!r} here; go back to"
                " that value, or encode into another dataset.path"
            )

    def _folders(self, part: str) -> list[Path]:
        return folders_of(Path(self.path).expanduser() / part)

    def _features(self, part: str) -> TextFeatures:
        return TextFeatures(Path(self.path).expanduser() / part / TEXTS)

    def _part(self, part: str) -> Records | Joined:
        folders = self._folders(part)
        every = [Records(folder) for folder in folders]
        images = every[0].images
        ours = self.of.fingerprint(part == HELD_OUT) if images and hasattr(self.of, "fingerprint") else None
        if ours not in (None, images):  # where the images are gone, nothing needs them
            raise UserError(
                f"{self.path}/{part} holds latents of other images than those of dataset.of, whose names or captions"
                " differ; name those, or encode into another dataset.path"
            )
        if folders[0].name == part:
            return every[0]
        sizes = [size_of(shape) for shape in self.shapes]
        if other := next((folder.name for folder in folders if folder.name not in sizes), None):
            raise UserError(f"{self.path}/{part} holds latents of {other}, and dataset.of has no data of that size")
        return Joined(every, [sizes.index(folder.name) for folder in folders])

    def augment(self, record: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Takes the mirrored image's posterior for half of the records, where there is one, and one of its captions."""
        kept = {key: value for key, value in record.items() if not key.startswith(FLIPPED)}
        if len(kept) < len(record) and rng.random() < 0.5:
            kept |= {key: record[FLIPPED + key] for key in ("mean", "std")}
        return numbered_texts.read(kept, self.features, rng) if TEXTS in kept else kept


def folders_of(whole: Path) -> list[Path]:
    """The folders of a part's records, there or not: its own, or one of each shape.

    Raises:
      UserError: a manifest that cannot be read.
    """
    there = [] if (whole / MANIFEST).exists() else sorted(whole.glob(f"[0-9]*x*/{MANIFEST}"))
    bins = _manifest(there[0].parent)["bins"] if there else None
    return [whole / name for name in bins] if isinstance(bins, dict) and bins else [whole]


def size_of(shape: Sequence[int]) -> str:
    """The name of the records of data [F, H, W, C], among those of other shapes."""
    frames, height, width, _ = shape
    return f"{height}x{width}" if frames == 1 else f"{frames}x{height}x{width}"


def layout(shape: Sequence[int], dtype: str, flipped: bool, others: Mapping[str, np.ndarray]) -> list[list[Any]]:
    """The fields of a record as `[name, dtype, shape]`, JSON-ready; `record_dtype` reads them.

    Args:
      shape: (F, h, w, C) of latents.
      dtype: of means and deviations, "float16" or "float32".
      flipped: whether there are those of the mirrored image.
      others: the rest of a record of the dataset.
    """
    moments = [prefix + name for prefix in ("", FLIPPED)[: 1 + flipped] for name in ("mean", "std")]
    fields = [[name, np.dtype(dtype).newbyteorder("<").str, list(shape)] for name in moments]
    for key, value in others.items():
        array = np.asarray(value)
        fields.append([key, array.dtype.newbyteorder("<").str, list(array.shape)])
    return fields


def record_dtype(fields: Sequence[Sequence[Any]]) -> np.dtype:
    """The structured dtype of `layout`."""
    return np.dtype([(name, dtype, tuple(shape)) for name, dtype, shape in fields])


class Records(Sequence):
    """The records of one folder, each read when it is asked for; safe in threads, readers open once a file.

    Raises:
      UserError: the folder is absent or not finished.

    Attributes:
      images: the `fingerprint` of the images; None where their dataset has none.
      fields: of a record.
    """

    def __init__(self, folder: Path) -> None:
        manifest = _manifest(folder)
        self._dtype, num, size = record_dtype(manifest["record"]), manifest["num"], manifest["shard"]
        self.fields = self._dtype.names
        parts = parts_of(folder, num, size)
        if missing := absent(parts):
            raise UserError(
                f"{folder} holds {len(parts) - len(missing)} of {len(parts)} files of latents, {missing[0]} is"
                f" missing; {MAKES}"
            )
        self._records, self._shard = opened(parts), size
        self._parts, self.images = parts, manifest["images"]

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        """Record i.

        Raises:
          UserError: its file is damaged.
        """
        if not 0 <= i < len(self):
            raise IndexError(i)
        try:
            [record] = np.frombuffer(self._records[i], self._dtype)
        except (RuntimeError, ValueError) as error:  # every record carries a checksum
            file = self._parts[i // self._shard].filename
            raise UserError(f"{file} is damaged ({str(error).splitlines()[0]}); {MAKES} again") from None
        return {name: record[name] for name in self._dtype.names}


def _manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_text())
        kept = {key: manifest[key] for key in ("num", "shard", "record", "dataset", "codec")}
        return kept | {key: manifest.get(key) for key in ("images", "names", "bins")}
    except FileNotFoundError:
        asked = " (with --config.encode.held_out=True)" if HELD_OUT in folder.parts[-2:] else ""
        raise UserError(f"no latents in {folder}; {MAKES}{asked}") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} cannot be read ({error}); encode into another dataset.path") from None
