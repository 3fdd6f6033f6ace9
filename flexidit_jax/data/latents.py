"""Latents that `--mode=encode` made of another dataset, as the posterior (mean, std) of every image.

    <path>/train/manifest.json                     what the records depend on, and their layout
    <path>/train/shards/000000.array_record        records 0 .. shard - 1, one after another
    <path>/held_out/...                            likewise, where it was asked for

A record is one element of a numpy structured dtype, little-endian: `mean` and `std` [F, h, w, C], unscaled,
`flipped_mean` and `flipped_std` of the mirrored image where the dataset augments (never of a held-out image), then the
other fields of the dataset's record. Nothing is drawn or scaled here: the codec's `draw` does both, once, for every
step anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.config import NO_DEFAULTS, difference
from flexidit_jax.common.errors import UserError
from flexidit_jax.runs.record_shards import absent, opened, parts_of

#: folders of the two parts of a dataset
TRAIN, HELD_OUT = "train", "held_out"
#: before the fields of the mirrored image
FLIPPED = "flipped_"
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
    def classes(self) -> int:
        """Of the dataset encoded."""
        return self.of.classes

    @property
    def names(self) -> Sequence[str] | None:
        """What the classes are called: as the dataset encoded has it, or had it when its images were there."""
        names = getattr(self.of, "names", None)
        manifest = self._folder(TRAIN) / "manifest.json"
        return _manifest(manifest.parent)["names"] if names is None and manifest.exists() else names

    def source(self) -> Sequence[dict[str, np.ndarray]]:
        """The training records {"mean", "std", "label", ...}.

        Raises:
          UserError: they are not there, or not all; or they are of other images than are there now.
        """
        return self._part(TRAIN)

    def held_out(self) -> Sequence[dict[str, np.ndarray]]:
        """Records of the held-out images.

        Raises:
          UserError: see `source`.
        """
        return self._part(HELD_OUT)

    def fingerprint(self, held_out: bool = False) -> str | None:
        """That of the images that these are latents of, see `data.folder`; None where their dataset has none.

        Raises:
          UserError: there are no latents. Whether they are all there, and of the images there now, `source` tells.
        """
        return _manifest(self._folder(HELD_OUT if held_out else TRAIN))["images"]

    def check_origin(self, made: Mapping[str, Any], defaults: Mapping[str, Any] = NO_DEFAULTS) -> None:
        """Refuses latents of another dataset or codec.

        Args:
          made: what latents depend on, as the config says it; see `runs.binding.origin`.
          defaults: what a word means that is left out.

        Raises:
          UserError: the first word on which they differ.
        """
        there = _manifest(self._folder(TRAIN))
        differs = difference(made, {key: there[key] for key in made}, defaults)
        if differs is not None:
            key, ours, theirs = differs
            raise UserError(
                f"{self.path} holds latents made with other words: {key} is {theirs!r} there, {ours!r} here; go back to"
                " that value, or encode into another dataset.path"
            )

    def _folder(self, part: str) -> Path:
        return Path(self.path).expanduser() / part

    def _part(self, part: str) -> Records:
        records = Records(self._folder(part))
        ours = self.of.fingerprint(part == HELD_OUT) if records.images and hasattr(self.of, "fingerprint") else None
        if ours not in (None, records.images):  # where the images are gone, nothing needs them
            raise UserError(
                f"{self.path}/{part} holds latents of other images than those of dataset.of, whose file names differ;"
                " name those, or encode into another dataset.path"
            )
        return records

    def augment(self, record: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Takes the mirrored image's posterior for half of the records, where there is one."""
        kept = {key: value for key, value in record.items() if not key.startswith(FLIPPED)}
        if len(kept) < len(record) and rng.random() < 0.5:
            kept |= {key: record[FLIPPED + key] for key in ("mean", "std")}
        return kept


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
    """

    def __init__(self, folder: Path) -> None:
        manifest = _manifest(folder)
        self._dtype, num, size = record_dtype(manifest["record"]), manifest["num"], manifest["shard"]
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
    file = folder / "manifest.json"
    try:
        manifest = json.loads(file.read_text())
        kept = {key: manifest[key] for key in ("num", "shard", "record", "dataset", "codec")}
        return kept | {key: manifest.get(key) for key in ("images", "names")}
    except FileNotFoundError:
        asked = " (with --config.encode.held_out=True)" if folder.name == HELD_OUT else ""
        raise UserError(f"no latents in {folder}; {MAKES}{asked}") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} cannot be read ({error}); encode into another dataset.path") from None
