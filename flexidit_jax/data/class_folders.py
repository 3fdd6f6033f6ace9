"""A folder of class folders, listed: the images of every class, and what is left out and why. No file is opened."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from flexidit_jax.common.errors import UserError
from flexidit_jax.data.picture_kinds import endings

#: what following a link to nothing ends in
_NOTHING = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
#: of reasons and of folders, named in one line
_NAMED = 5


@dataclass(frozen=True)
class ClassFolders:
    """What there is below a folder. Names are relative to it.

    Attributes:
      images: the images of every class by its name, wherever they lie in the class folder; both in the order of their
        names, the same on every machine.
      left_out: why files are not among them -> how many; hidden files are not counted.
      examples: why -> the first of them.
      no_classes: folders beside the class folders -> why they are none.
    """

    images: dict[str, list[str]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    no_classes: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.images.values()))

    def __str__(self) -> str:
        return f"{_several(len(self), 'image')} in {_several(len(self.images), 'class', 'classes')}"

    def others(self) -> str:
        """What is none, such as `; left out: 2 files of kind .txt (cat/a.txt); no class: empty (no images)`, or ""."""
        why = [(why, count, self.examples[why]) for why, count in self.left_out.most_common()]
        files = [f"{_several(count, why)} ({_printed(example)})" for why, count, example in why[:_NAMED]]
        if more := sum(count for _, count, _ in why[_NAMED:]):
            files.append(f"{more:,} more for other reasons ({_printed(why[_NAMED][2])})")
        return (f"; left out: {', '.join(files)}" if files else "") + self.not_classes()

    def not_classes(self) -> str:
        """The last part of `others`, or ""."""
        named = [f"{_printed(name)} ({why})" for name, why in list(self.no_classes.items())[:_NAMED]]
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

    def leave_out(why: str, name: str) -> None:
        found.left_out[why] += 1
        found.examples.setdefault(why, name)

    for name, images in _folders(path, leave_out, found.no_classes):
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


def _folders(
    path: Path, leave_out: Callable[[str, str], None], no_classes: dict[str, str]
) -> Iterator[tuple[str, Iterator[str]]]:
    """Folders that are not hidden, in the order of their names, each with the names of its images in any order."""
    known, root = endings(), _identity(path)
    for entry in _entries(path):
        kind = _kind(entry)
        if entry.name.startswith("."):
            if kind == "folder":
                no_classes[entry.name] = "hidden"
        elif kind == "folder" and _identity(entry.path) == root:
            no_classes[entry.name] = "a link to the whole"
        elif kind == "folder":
            yield entry.name, _images(path, entry.name, root, known, leave_out)
        elif kind == "file" and entry.name.lower().endswith(known):
            leave_out("image beside the class folders", entry.name)
        else:
            leave_out(_why(kind, entry.name), entry.name)


def _images(
    path: Path, name: str, root: tuple[int, int], known: tuple[str, ...], leave_out: Callable[[str, str], None]
) -> Iterator[str]:
    within = [(name, frozenset([root, _identity(path / name)]))]  # folders, and those above them
    while within:
        folder, above = within.pop()
        try:
            entries = _entries(path / folder)
        except OSError as error:
            raise UserError(
                f"{path / folder} cannot be listed ({error.strerror}); make it readable, or move it out of {path}"
            ) from None
        for entry in entries:
            if entry.name.startswith("."):
                continue
            name, kind = f"{folder}/{entry.name}", _kind(entry)
            if kind == "file" and entry.name.lower().endswith(known):
                yield name
            elif kind != "folder":
                leave_out(_why(kind, entry.name), name)
            elif (here := _identity(entry.path)) in above:
                leave_out("link to a folder above it", name)
            else:
                within.append((name, above | {here}))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _identity(path: str | Path) -> tuple[int, int]:
    """Of a folder, by whatever name."""
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino


def _kind(entry: os.DirEntry[str]) -> str:
    """ "folder", "file", "nothing" where a link leads nowhere, or "other", such as a pipe."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError as error:
        if error.errno not in _NOTHING:
            raise UserError(f"{entry.path} cannot be looked at ({error.strerror}); make it readable") from None
        return "nothing"
    return "nothing" if entry.is_symlink() else "other"


def _why(kind: str, name: str) -> str:
    """Why what is no image is left out, as a noun whose first word has the plural."""
    if kind == "nothing":
        return "link to nothing"
    if kind == "other":
        return "pipe or device"
    ending = os.path.splitext(name)[1].lower()
    return f"file of kind {_printed(ending)}" if ending else "file without an ending"


def _several(count: int, noun: str, plural: str | None = None) -> str:
    first, *rest = noun.split(" ")
    return f"{count:,} {noun if count == 1 else plural or ' '.join([f'{first}s', *rest])}"


def _printed(name: str) -> str:
    """A name as one line shows it, whatever bytes it is made of."""
    return name if name.isprintable() else ascii(name)
