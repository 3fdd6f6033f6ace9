"""Imports point down only, rooms are named for what they hold, files hold one idea (docs/architecture.md)."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "flexidit_jax"
#: a room imports itself and rooms of a lower number, never a neighbour of its own number
FLOOR = {
    "common": 0,
    "diffusion": 1,
    "models": 1,
    "runs": 1,
    "codecs": 2,
    "convert": 2,
    "data": 2,
    "metrics": 2,
    "text": 2,
    "sampling": 3,
    "training": 3,
    "api": 4,
    "loading": 5,
    "evaluation": 5,
    "programs": 5,
    "experiment": 6,
    "jobs": 7,
    "main": 8,
    "__init__": 9,
    "__main__": 9,
}
#: beside the package: configs may refuse a variant, what runs on other machines needs nothing of ours
OUTSIDE = {"configs": {"common"}, "launch": set()}
#: names that say nothing; `common` holds what every room stands on and gets no namesake
EMPTY_NAMES = {"parts", "utils", "util", "helpers", "helper", "misc", "common"}
LONGEST = 400

FILES = sorted(PACKAGE.rglob("*.py"))
BESIDE = sorted(file for folder in OUTSIDE for file in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
EVERY = [*FILES, *BESIDE, *TESTS, *sorted((ROOT / "benchmarks").rglob("*.py"))]


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
    return {
        name.partition(".")[2].partition(".")[0] or "__init__" for name in names if name.split(".")[0] == PACKAGE.name
    }


def upward_imports(path: Path) -> list[str]:
    own = room(path)
    seen = imported_rooms(path) - {own}
    if path.parent == PACKAGE:
        seen -= {"__init__"} if own == "__main__" else set()
    return [f"{path.relative_to(PACKAGE)} imports {other}" for other in sorted(seen) if FLOOR[other] >= FLOOR[own]]


def empty_names(path: Path) -> list[str]:
    parts = path.relative_to(ROOT).with_suffix("").parts
    named = parts[2:] if parts[:2] in (("flexidit_jax", "common"), ("tests", "common")) else parts
    return [part for part in named if part.removeprefix("test_") in EMPTY_NAMES]


def too_long(path: Path) -> bool:
    return len(path.read_text().splitlines()) > LONGEST


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    assert upward_imports(path) == []


@pytest.mark.parametrize("path", BESIDE, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_lies_beside_the_package_hardly_imports_it(path: Path) -> None:
    assert imported_rooms(path) <= OUTSIDE[path.relative_to(ROOT).parts[0]]


def test_every_room_has_a_floor_and_every_floor_a_room() -> None:
    assert {room(path) for path in FILES} == set(FLOOR)


def test_no_name_is_empty_and_no_file_too_long() -> None:
    assert {path: names for path in EVERY if (names := empty_names(path))} == {}
    assert [path for path in EVERY if too_long(path) and path not in TESTS] == []


def test_a_job_reads_like_a_table_of_contents() -> None:
    lengths = {path.name: len(path.read_text().splitlines()) for path in (PACKAGE / "jobs").rglob("*.py")}
    assert {name: lines for name, lines in lengths.items() if lines > 220} == {}
    assert not [path for path in (PACKAGE / "jobs").iterdir() if path.is_dir() and path.name != "__pycache__"]


def test_tests_mirror_the_tree() -> None:
    folders = {path.parent.relative_to(PACKAGE) for path in FILES} | {Path("launch"), Path("golden")}
    assert {path.parent.relative_to(ROOT / "tests") for path in (ROOT / "tests").rglob("*.py")} <= folders


@pytest.mark.parametrize(
    ("file", "text", "found"),
    [
        (
            "models/bad.py",
            "def f():\n    from flexidit_jax.sampling.engine import Engine\n",
            "models/bad.py imports sampling",
        ),
        ("sampling/bad.py", "import flexidit_jax.training.step\n", "sampling/bad.py imports training"),
        ("jobs/bad.py", "from flexidit_jax import main\n", "jobs/bad.py imports main"),
        ("api.py", "import flexidit_jax as fd\n", "api.py imports __init__"),
    ],
)
def test_an_upward_import_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str, found: str
) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path / "flexidit_jax")
    bad = tmp_path / "flexidit_jax" / file
    bad.parent.mkdir(parents=True)
    bad.write_text(text)
    assert found in upward_imports(bad)


@pytest.mark.parametrize("name", ["jobs/parts/a.py", "models/utils.py", "sampling/helpers/b.py", "data/common.py"])
def test_an_empty_name_is_seen(name: str) -> None:
    assert empty_names(PACKAGE / name) != []
    assert empty_names(PACKAGE / "common" / "build.py") == []


def test_a_long_file_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "long.py"
    file.write_text("x = 1\n" * (LONGEST + 1))
    assert too_long(file)
    file.write_text("x = 1\n" * LONGEST)
    assert not too_long(file)


#: `models.flexify.at`, `models/dit`, `sampling/mode_gap.py`: a room, and a module or folder of it; not `runs/digits`
NAMED = re.compile(rf"`(?:flexidit_jax[./])?({'|'.join(sorted(FLOOR))})(?:\.(?!json|md)|(?<!runs)/)([a-z_][a-z0-9_]*)")


def missing_modules(text: str) -> list[str]:
    """Modules that a text names and that there are not; a word of a config such as `sample.steps` names none."""
    named = {(PACKAGE / room, module) for room, module in NAMED.findall(text)}
    rooms = {(room, module) for room, module in named if room.is_dir()}
    return sorted(f"{r.name}/{m}" for r, m in rooms if not (r / m).is_dir() and not (r / f"{m}.py").is_file())


def test_docs_and_docstrings_name_modules_that_there_are() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "launch").glob("*.md")]
    found = {path.relative_to(ROOT): missing_modules(path.read_text()) for path in [*EVERY, *pages]}
    assert {path: names for path, names in found.items() if names and path.name != Path(__file__).name} == {}
    assert missing_modules("see `sampling.gaps` and `sampling/guidance.py`") == ["sampling/gaps"]


def test_torch_and_tensorflow_stay_out_of_the_lower_floors() -> None:
    for path in FILES:
        tops = {
            alias.name.split(".")[0]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert "torch" not in tops or path.name == "torch_files.py", path
        assert not tops & {"tensorflow", "tensorflow_datasets"} or room(path) == "data", path
