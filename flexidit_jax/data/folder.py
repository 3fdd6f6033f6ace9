"""Your own images: a folder of class folders, `path/<class>/<any name>.jpg`, classes in the order of their names."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from flexidit_jax.common.build import positive
from flexidit_jax.common.errors import UserError
from flexidit_jax.data.as_shown import as_shown
from flexidit_jax.data.corrupt import Intact
from flexidit_jax.data.photos import Photos, photo

#: of file names, in any case
ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

File = tuple[str, int]  # and its label


@dataclass(frozen=True, kw_only=True)
class Dataset(Photos):
    """Centre crops as DiT's, of images as a viewer shows them: upright (EXIF), over white where they are transparent.

    Passed over are names that begin with a dot, and folders within class folders.

    Attributes:
      size, max_corrupt: see `data.photos.Photos`.
      path: the folder of class folders.
      classes: how many there are. None counts them, which wants the folder to be there for sampling too.
      validation: a folder of the same class folders, never trained on.
      held_out_share: without `validation`, the share of every class kept from training, evenly along its names.
    """

    path: str
    classes: int | None = None
    validation: str | None = None
    held_out_share: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.held_out_share < 1:
            raise UserError(f"dataset.held_out_share is a share in [0, 1), such as 0.02, got {self.held_out_share!r}")
        if self.held_out_share and self.validation is not None:
            raise UserError("dataset.validation and dataset.held_out_share are both set; one of them is enough")
        if self.classes is None:
            object.__setattr__(self, "classes", self._counted())
        positive("dataset", classes=self.classes)

    def source(self) -> Sequence[dict[str, np.ndarray]]:
        """The training records {"x", "label"}.

        Raises:
          UserError: no such folder, no class folders or another number of them, a class without images; or as for
            `held_out`, where that is asked for.
        """
        if self.validation is not None or self.held_out_share:
            self.held_out()  # refused now, and not when the training is over
        return Intact(_Crops(self._trained, self.size), self.max_corrupt)

    def held_out(self) -> Sequence[dict[str, np.ndarray]]:
        """The records of `validation`, or those kept from training.

        Raises:
          UserError: there are none, or as for `source`.
        """
        return Intact(_Crops(self._held_out, self.size), self.max_corrupt)

    def fingerprint(self, held_out: bool = False) -> str | None:
        """A hash of the names of all training images, or of those held out, with their class; wherever they are.

        Returns:
          None where their folder is not there, or is empty as a mount point is.

        Raises:
          UserError: see `source` and `held_out`.
        """
        folders = (self.path, self.validation if held_out else None)
        if not all(_there(folder) for folder in folders if folder is not None):
            return None
        files = self._held_out if held_out else self._trained
        names = "\n".join("/".join(Path(file).parts[-2:]) for file, _ in files)
        return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()[:16]

    def _counted(self) -> int:
        try:
            return len(_class_folders(self.path, "path"))
        except UserError as error:
            raise UserError(f"{error}; where the folder is not, dataset.classes says how many there are") from None

    @cached_property
    def _files(self) -> list[list[File]]:
        folders = _class_folders(self.path, "path")
        if len(folders) != self.classes:
            raise UserError(f"dataset.classes is {self.classes}, but {self.path} has {len(folders)} class folders")
        return _files(folders)

    @cached_property
    def _trained(self) -> list[File]:
        return [file for files in self._files for i, file in enumerate(files) if not self._kept_out(i)]

    @cached_property
    def _held_out(self) -> list[File]:
        if self.validation is None:
            kept = [file for files in self._files for i, file in enumerate(files) if self._kept_out(i)]
            if kept:
                return kept
            raise UserError(
                f"no image of {self.path} is kept from training (dataset.held_out_share={self.held_out_share:g});"
                " set that to a larger share, or dataset.validation to a folder of the same class folders"
            )
        files = _files(_class_folders(self.validation, "validation"))
        theirs, ours = ({Path(f[0][0]).parent.name for f in each} for each in (files, self._files))
        for odd in sorted(theirs ^ ours):
            verb = "has" if odd in theirs else "lacks"
            raise UserError(f"dataset.validation={self.validation} {verb} a class folder {odd!r}, unlike dataset.path")
        return [file for each in files for file in each]

    def _kept_out(self, i: int) -> bool:
        """Whether the i-th image of a class is: those at which the share times i passes a whole number."""
        return int((i + 1) * self.held_out_share) > int(i * self.held_out_share)


class _Crops(Sequence):
    """Image files, read, decoded and cropped when they are asked for."""

    def __init__(self, files: list[File], size: int) -> None:
        self._files, self._size = files, size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> dict[str, np.ndarray]:
        file, label = self._files[i]
        try:
            data = Path(file).read_bytes()
        except OSError as error:  # not skipped: the next try may succeed, and a resumed run would read another record
            raise UserError(
                f"{file} was listed but cannot be read ({error.strerror}); when it can, the same command goes on"
            ) from None
        return photo(data, label, self._size, file, as_shown)


def _there(folder: str) -> bool:
    path = os.path.expanduser(folder)
    return os.path.isdir(path) and bool(os.listdir(path))


def _class_folders(path: str, key: str) -> list[Path]:
    """The class folders, in the order of their names.

    Raises:
      UserError: there are none; the message says which files go where.
    """
    try:
        entries = list(os.scandir(Path(path).expanduser()))
        problem = "has no class folders"
    except OSError as error:
        entries = []
        problem = f"cannot be listed ({error.strerror})"
    found = [Path(entry) for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    if not found:
        raise UserError(
            f"dataset.{key}={path} {problem}; it must hold one folder per class with its images,"
            f" such as {Path(path) / 'cat' / '001.jpg'} ({' '.join(ENDINGS)})"
        )
    return sorted(found, key=lambda folder: folder.name)


def _files(folders: list[Path]) -> list[list[File]]:
    """The images of every class with their label, in the order of their names: the same on every machine."""
    classes = []
    for label, folder in enumerate(folders):
        names = [
            e.path for e in os.scandir(folder) if e.name.lower().endswith(ENDINGS) and e.name[0] != "." and e.is_file()
        ]
        if not names:
            raise UserError(
                f"class folder {folder} holds no images ({' '.join(ENDINGS)}); put some there, or remove it"
            )
        classes.append([(name, label) for name in sorted(names)])
    return classes
