"""Files that are whole or absent."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import folder_written_aside, unfinished, written_aside


def test_a_file_appears_whole_or_stays_what_it_was(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    with written_aside(file) as unfinished:
        unfinished.write_text("one")
        assert not file.exists()
    assert file.read_text() == "one"
    with pytest.raises(KeyError), written_aside(file) as unfinished:
        unfinished.write_text("tw")
        raise KeyError
    assert file.read_text() == "one"
    assert list(tmp_path.iterdir()) == [file]


def test_whoever_reads_a_file_reads_to_the_end_what_it_opened(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    file.write_text("one")
    with file.open() as reader:
        with written_aside(file) as unfinished:
            unfinished.write_text("two")
            written = unfinished.stat().st_ino
        assert reader.read() == "one"
    assert (file.read_text(), file.stat().st_ino) == ("two", written)  # renamed, not copied


@pytest.mark.parametrize("umask", [0o022, 0o027])
def test_a_file_is_as_readable_as_any_also_where_its_writer_makes_a_private_one(tmp_path: Path, umask: int) -> None:
    file, before = tmp_path / "file.txt", os.umask(umask)
    unfinished(file).touch(0o600)  # left by a kill
    try:
        with written_aside(file) as aside:
            private = Path(tempfile.mkstemp(dir=tmp_path)[1])
            private.rename(aside)
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == 0o666 & ~umask


def test_what_a_kill_leaves_of_replacing_a_folder_is_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, before = tmp_path / "folder", os.umask(0o027)
    folder.mkdir()
    seen, rename = [], Path.rename

    def watched(self: Path, target: Path) -> Path:
        seen.append(target.parent.stat().st_mode & 0o777)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watched)
    try:
        with folder_written_aside(folder):
            pass
    finally:
        os.umask(before)
    assert seen[0] == 0o750


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for content in ("one", "two"):
        with folder_written_aside(folder) as aside:
            (aside / content).write_text(content)
        assert [path.name for path in folder.iterdir()] == [content]
    with pytest.raises(KeyError), folder_written_aside(folder) as aside:
        (aside / "three").touch()
        raise KeyError
    assert [path.name for path in folder.iterdir()] == ["two"]
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("fails", ["folder", "folder.tmp"])
def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    folder, rename = tmp_path / "folder", Path.rename
    folder.mkdir()
    (folder / "years").write_text("of work")

    def refuses(self: Path, target: Path) -> Path:
        if self.name == fails and self.parent == tmp_path:
            raise OSError(errno.EACCES, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuses)
    refused = pytest.raises(UserError, match=r"cannot write to .*folder \(Permission denied\)")
    with refused, folder_written_aside(folder) as aside:
        (aside / "new").touch()
    assert [path.name for path in folder.iterdir()] == ["years"]
    assert list(tmp_path.iterdir()) == [folder]


def test_a_file_in_a_folders_place_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a thesis")
    with pytest.raises(UserError, match="Not a directory"), folder_written_aside(tmp_path / "folder"):
        pass
    assert (tmp_path / "folder").read_text() == "a thesis"
