"""Files that are whole or absent."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexidit_jax.common.files import written_aside


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
