"""Files that are whole or absent."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import folder_written_aside, written_aside


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
