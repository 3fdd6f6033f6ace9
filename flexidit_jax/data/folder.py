"""Your own images: a folder of class folders, `path/<class>/<any name>.jpg` or deeper, classes in order of names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from flexidit_jax.common.build import positive
from flexidit_jax.common.errors import UserError
from flexidit_jax.data.as_shown import as_shown
from flexidit_jax.data.class_folders import ClassFolders, class_names, list_class_folders
from flexidit_jax.data.corrupt import Intact
from flexidit_jax.data.held_out import NONE, check_held_out, digest, kept_out, nothing_kept
from flexidit_jax.data.listing import there
from flexidit_jax.data.photos import Photos, photo
from flexidit_jax.data.span import Span

File = tuple[str, int]  # below the folder, and its label


@dataclass(frozen=True, kw_only=True)
class Dataset(Photos):
    """Centre crops as DiT's, of images as a viewer shows them: upright (EXIF), over white where they are transparent.

    What is below a class folder, however deep, is of that class. Passed over are names that begin with a dot, and files
    that are no pictures (`data.picture_kinds`).

    Attributes:
      size, max_corrupt, max_pixels: see `data.photos.Photos`.
      path: the folder of class folders.
      classes: how many there are. None counts the folders that hold images; it stays None where `path` is not there.
      validation: a folder of the same class folders, never trained on.
      held_out_share: without `validation`, the share of every class kept from training, evenly along its names.
    """

    path: str
    classes: int | None = None
    validation: str | None = None
    held_out_share: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_held_out(self.held_out_share, self.validation)
        if self.classes is None and there(self.path):
            object.__setattr__(self, "classes", len(self._names) or len(self._listed.images))
        if self.classes is not None:
            positive("dataset", classes=self.classes)

    def source(self) -> Sequence[dict[str, np.ndarray]]:
        """The training records {"x", "label"}.

        Raises:
          UserError: no such folder, or no class folders with images or another number of them; or as for `held_out`,
            where that is asked for.
        """
        if self._holds_out:
            self.held_out()  # refused now, and not when the training is over
        return self._records(self.path, self._trained)

    def held_out(self) -> Sequence[dict[str, np.ndarray]]:
        """The records of `validation`, or those kept from training.

        Raises:
          UserError: there are none, or as for `source`.
        """
        return self._records(self.path if self.validation is None else self.validation, self._held_out)

    @property
    def names(self) -> tuple[str, ...] | None:
        """Those of the class folders; None where they are not there, or not as many as `classes`."""
        return self._names if len(self._names) == self.classes else None

    def fingerprint(self, held_out: bool = False) -> str | None:
        """A hash of the names of all training images, or of those held out, from their class on; wherever they are.

        Returns:
          None where their folder is not there, or is empty as a mount point is.

        Raises:
          UserError: see `source` and `held_out`.
        """
        folders = (self.path, self.validation if held_out else None)
        if not all(there(folder) for folder in folders if folder is not None):
            return None
        return digest(file for file, _ in (self._held_out if held_out else self._trained))

    def summary(self) -> str:
        """How many images there are, how many are held out, and what is left out and why.

        Raises:
          UserError: see `source` and `held_out`.
        """
        if self.validation is not None:
            return f"{self._listed}{self._listed.others()}; held out: {self._validation}{self._validation.others()}"
        kept = f"{len(self._held_out):,} of them held out" if self._holds_out else NONE
        return f"{self._listed}, {kept}{self._listed.others()}"

    def _records(self, path: str, files: list[File]) -> Sequence[dict[str, np.ndarray]]:
        return Intact(_Crops(Path(path).expanduser(), files, self), self.max_corrupt)

    @property
    def _holds_out(self) -> bool:
        return self.validation is not None or self.held_out_share > 0

    @cached_property
    def _names(self) -> tuple[str, ...]:
        """Of the class folders; none where something forbids to look, which `_listed` says."""
        try:
            return tuple(class_names(Path(self.path).expanduser()))
        except (OSError, UserError):
            return ()

    @cached_property
    def _listed(self) -> ClassFolders:
        found = _listed(self.path, "path", self.classes is None)
        if self.classes not in (None, len(found.images)):
            raise UserError(
                f"dataset.classes is {self.classes}, but {self.path} has {len(found.images)} class folders;"
                f" dataset.classes=None counts them{found.not_classes()}"
            )
        return found

    @cached_property
    def _validation(self) -> ClassFolders:
        found = _listed(self.validation, "validation")
        for odd in sorted(found.images.keys() ^ self._listed.images.keys()):
            verb = "has" if odd in found.images else "lacks"
            raise UserError(
                f"dataset.validation={self.validation} {verb} a class folder {odd!r}, unlike dataset.path"
                f"{found.not_classes()}"
            )
        return found

    @cached_property
    def _trained(self) -> list[File]:
        return [(f, label) for label, i, f in _numbered(self._listed) if not self._kept_out(i)]

    @cached_property
    def _held_out(self) -> list[File]:
        if self.validation is not None:
            return [(f, label) for label, _, f in _numbered(self._validation)]
        kept = [(f, label) for label, i, f in _numbered(self._listed) if self._kept_out(i)]
        if kept:
            return kept
        raise nothing_kept(self.path, self.held_out_share, "a folder of the same class folders")

    def _kept_out(self, i: int) -> bool:
        """Whether the i-th image of a class is."""
        return kept_out(i, self.held_out_share)


class _Crops(Sequence):
    """Image files, read, decoded and cropped when they are asked for."""

    def __init__(self, folder: Path, files: list[File], keys: Photos) -> None:
        self._folder, self._files, self._keys = folder, files, keys

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        name, label = self._files[i]
        file = str(self._folder / name)
        return photo(Span(file).read(), label, self._keys.size, file, as_shown, self._keys.max_pixels)


def _numbered(folders: ClassFolders) -> Iterator[tuple[int, int, str]]:
    """Every image with the number of its class and its own within the class."""
    for label, files in enumerate(folders.images.values()):
        for i, file in enumerate(files):
            yield label, i, file


def _listed(path: str, key: str, counting: bool = False) -> ClassFolders:
    """What there is at `dataset.<key>`.

    Raises:
      UserError: no class folders with images; the message says which files go where.
    """
    try:
        found = list_class_folders(Path(path).expanduser())
        problem = f"has no class folders with images{found.others()}"
    except OSError as error:
        found, problem = ClassFolders(), f"cannot be listed ({error.strerror})"
    if found.images:
        return found
    told = "; where the folder is not, dataset.classes says how many there are" if counting else ""
    raise UserError(
        f"dataset.{key}={path} {problem}; it must hold one folder per class with its images, such as"
        f" {Path(path) / 'cat' / '001.jpg'} (or .png, .webp, .tif and others){told}"
    )
