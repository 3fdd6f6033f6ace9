"""What is listed below a folder of class folders: images at any depth, links, what is left out."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.data import listing
from flexidit_jax.data.class_folders import class_names, list_class_folders


def touch(folder: Path, *names: str) -> None:
    """Empty files: nothing is opened to list it."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_images_of_any_depth_and_kind_in_the_order_of_their_names(tmp_path: Path) -> None:
    touch(tmp_path, "b/2.PNG", "b/day10/x.jpg", "b/day1/z/1.webp", "b/10.avif", "a/deep/er/0.tif")
    found = list_class_folders(tmp_path)
    assert found.images == {"a": ["a/deep/er/0.tif"], "b": ["b/10.avif", "b/2.PNG", "b/day1/z/1.webp", "b/day10/x.jpg"]}
    assert class_names(tmp_path) == ["a", "b"]
    assert (str(found), len(found), found.others()) == ("5 images in 2 classes", 5, "")


def test_what_is_left_out_is_counted_by_reason_with_an_example(tmp_path: Path) -> None:
    touch(tmp_path, "cat/0.png", "cat/in/a.HEIC", "cat/b.heic", "cat/c.heic", "cat/notes.txt", "cat/LICENSE")
    touch(tmp_path, "0.jpg", "README.txt", "cat/.DS_Store", "cat/.thumbs/1.png", ".hidden.jpg")
    touch(tmp_path, "__MACOSX/cat/._0.png", ".git/config", "empty/more/readme.txt")
    (tmp_path / "void").mkdir()
    (tmp_path / "cat" / "gone.png").symlink_to("nowhere.png")
    (tmp_path / "cat" / "self").symlink_to("self")
    os.mkfifo(tmp_path / "cat" / "pipe")
    found = list_class_folders(tmp_path)
    assert str(found) == "1 image in 1 class"
    assert found.others() == (
        "; left out: 3 files of kind .txt (README.txt), 3 files of kind .heic (cat/b.heic), 2 links to nothing"
        " (cat/gone.png), 1 image beside the class folders (0.jpg), 1 file without an ending (cat/LICENSE), 1 more for"
        " other reasons (cat/pipe); no class: .git (hidden), __MACOSX (no images), empty (no images), void (no images)"
    )
    assert class_names(tmp_path) == ["cat"]


def test_links_are_followed_and_never_round(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    touch(tmp_path, "elsewhere/1.png", "elsewhere/in/2.png", "other.png")
    touch(folder, "cat/0.png")
    (folder / "dog").symlink_to(tmp_path / "elsewhere")
    (folder / "cat" / "again").symlink_to(tmp_path / "elsewhere")
    (folder / "cat" / "other.png").symlink_to(tmp_path / "other.png")
    (tmp_path / "elsewhere" / "in" / "up").symlink_to("..")
    (folder / "cat" / "all").symlink_to(folder)
    (folder / "whole").symlink_to(".")
    found = list_class_folders(folder)
    assert found.images == {
        "cat": ["cat/0.png", "cat/again/1.png", "cat/again/in/2.png", "cat/other.png"],
        "dog": ["dog/1.png", "dog/in/2.png"],
    }
    assert found.others() == (
        "; left out: 3 links to a folder above it (cat/all); no class: whole (a link to the whole)"
    )


def test_names_of_any_bytes_stay_in_one_line(tmp_path: Path) -> None:
    touch(tmp_path, "cat/0.png", "cat/two\nlines.txt")
    os.mkdir(os.fsencode(tmp_path) + b"/\xff")
    line = list_class_folders(tmp_path).others()
    assert line == ("; left out: 1 file of kind .txt ('cat/two\\nlines.txt'); no class: '\\udcff' (no images)")
    line.encode()


def test_many_that_are_no_classes_are_not_all_named(tmp_path: Path) -> None:
    for i in range(12):
        (tmp_path / f"empty{i:02d}").mkdir()
    touch(tmp_path, "cat/0.png")
    assert list_class_folders(tmp_path).not_classes().endswith(", empty04 (no images), 7 more")


def test_a_folder_that_cannot_be_listed_is_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "cat/0.png", "lost+found/x.png")
    entries = listing.entries

    def refuse(folder: Path) -> list[os.DirEntry[str]]:
        if folder.name == "lost+found":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return entries(folder)

    monkeypatch.setattr(listing, "entries", refuse)
    with pytest.raises(UserError) as caught:
        list_class_folders(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/lost+found cannot be listed (Permission denied); make it readable, or move it out of {tmp_path}"
    )
