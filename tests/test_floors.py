"""Imports point down only: the table of the architecture, held against the code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "flexidit_jax"
FLOOR = {
    "common": 0,
    "models": 1,
    "diffusion": 1,
    "data": 2,
    "codecs": 2,
    "convert": 2,
    "training": 3,
    "sampling": 3,
    "metrics": 3,
    "api": 4,
    "jobs": 4.5,
    "main": 5,
    "__init__": 6,
}
#: neighbours on one floor never import each other, except within a room
FILES = sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "flexidit_jax" else set()
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("flexidit_jax.")}


def violations(path: Path) -> list[str]:
    own = room(path)
    return [
        f"{path.relative_to(PACKAGE)} imports {other}"
        for other in imported_rooms(path)
        if other != own and FLOOR[other] >= FLOOR[own]
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    assert violations(path) == []


def test_an_upward_import_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    bad = tmp_path / "models" / "bad.py"
    bad.parent.mkdir()
    bad.write_text("def f():\n    from flexidit_jax.sampling.engine import Engine\n")
    assert violations(bad) == ["models/bad.py imports sampling"]


def test_torch_and_tensorflow_stay_out_of_the_lower_floors() -> None:
    for path in FILES:
        tops = {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert "torch" not in tops or room(path) == "convert", path
        assert not tops & {"tensorflow", "tensorflow_datasets"} or room(path) == "data", path


def test_files_hold_one_idea() -> None:
    assert {path.name: n for path in FILES if (n := len(path.read_text().splitlines())) > 400} == {}
