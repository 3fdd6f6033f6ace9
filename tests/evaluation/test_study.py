"""The folder of a study: what may be replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.evaluation.study import study_folder, write_study


def test_a_folder_that_holds_anything_else_is_not_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for _ in range(2):  # a new folder, and an earlier study
        write_study(study_folder(str(folder), tmp_path / "report"), "report", {"a": 1}, "page", {})
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(UserError) as caught:
        study_folder(str(folder), tmp_path / "report")
    assert str(caught.value) == f"{folder} is there and holds thesis.tex, which no report has; name another --out"
    assert sorted(path.name for path in folder.iterdir()) == ["report.json", "report.md", "thesis.tex"]
    with pytest.raises(UserError, match="which no search has"):
        study_folder(str(folder), tmp_path / "search")
    assert study_folder(None, folder) == folder  # a run's own folder is replaced
