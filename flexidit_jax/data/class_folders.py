"""A folder of class folders, listed: the images of every class, and what is left out and why. No file is opened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flexidit_jax.data.left_out import NAMED, LeftOut, printed, several
from flexidit_jax.data.listing import LeaveOut, entries, files_below, identity, kind_of, why_not
from flexidit_jax.data.picture_kinds import endings


@dataclass(frozen=True)
class ClassFolders:
    """What there is below a folder. Names are relative to it.

    Attributes:
      images: the images of every class by its name, wherever they lie in the class folder; both in the order of their
        names, the same on every machine.
      left_out: why files are not among them; hidden files are not counted.
      no_classes: folders beside the class folders -> why they are none.
    """

    images: dict[str, list[str]] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)
    no_classes: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.images.values()))

    def __str__(self) -> str:
        return f"{several(len(self), 'image')} in {several(len(self.images), 'class', 'classes')}"

    def others(self) -> str:
        """What is none, such as `; left out: 2 files of kind .txt (cat/a.txt); no class: empty (no images)`, or ""."""
        return str(self.left_out) + self.not_classes()

    def not_classes(self) -> str:
        """The last part of `others`, or ""."""
        named = [f"{printed(name)} ({why})" for name, why in list(self.no_classes.items())[:NAMED]]
        if more := len(self.no_classes) - len(named):
            named.append(f"{more:,} more")
        return f"; no class: {', '.join(named)}" if named else ""


def list_class_folders(path: Path) -> ClassFolders:
    """Lists all that is below `path`; symbolic links are followed, and never round.

    Raises:
      OSError: `path` itself cannot be listed.
      UserError: a folder below it.
    """
    found = ClassFolders()
    for name, images in _folders(path, found.left_out.add, found.no_classes):
        if files := sorted(images):
            found.images[name] = files
        else:
            found.no_classes[name] = "no images"
    return found


def class_names(path: Path) -> list[str]:
    """The classes alone, which looks into every folder no further than to its first image.

    Raises:
      OSError, UserError: see `list_class_folders`.
    """
    folders = _folders(path, lambda why, name: None, {})
    return [name for name, images in folders if next(images, None) is not None]


def _folders(path: Path, leave_out: LeaveOut, no_classes: dict[str, str]) -> Iterator[tuple[str, Iterator[str]]]:
    """Folders that are not hidden, in the order of their names, each with the names of its images in any order."""
    known, root = endings(), identity(path)
    for entry in entries(path):
        kind = kind_of(entry)
        if entry.name.startswith("."):
            if kind == "folder":
                no_classes[entry.name] = "hidden"
        elif kind == "folder" and identity(entry.path) == root:
            no_classes[entry.name] = "a link to the whole"
        elif kind == "folder":
            yield entry.name, files_below(path, known, leave_out, entry.name)
        elif kind == "file" and entry.name.lower().endswith(known):
            leave_out("image beside the class folders", entry.name)
        else:
            leave_out(why_not(kind, entry.name), entry.name)
