"""The pages are true: links lead somewhere, commands are commands, tables of keys name every key."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import pytest
from ml_collections import ConfigDict

import flexidit_jax as fd
from flexidit_jax.common.config import load_config, override
from flexidit_jax.main import _said

ROOT = Path(__file__).parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "launch").glob("*.md")]
JOBS = {file.stem for file in (ROOT / "flexidit_jax" / "jobs").glob("*.py")}


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(page: Path) -> list[str]:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        there = (page.parent / path).resolve() if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    assert broken_links(page) == []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# One word\n[a](b.md) [b](#one-word) [c](#two-words) [d](https://example.org/x)")
    assert broken_links(tmp_path / "a.md") == ["b.md", "#two-words"]


def commands(page: Path) -> list[list[str]]:
    """Every call of the command line that a page shows, in words."""
    text = page.read_text().replace("\\\n", " ")
    found = re.findall(r"(?:python -m flexidit_jax\.main|`flexidit) ([^`\n#]*)", text)
    calls = map(shlex.split, found)
    return [words for words in calls if any(word.startswith("--config=") for word in words) or own_config(words)]


def own_config(words: list[str]) -> dict[str, dict[str, object]] | None:
    """What a mode runs without a `--config`, where it does."""
    [mode, *_] = [word.removeprefix("--mode=") for word in words if word.startswith("--mode=")] or ["train"]
    return _said(mode).config if mode in JOBS else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_commands(page: Path) -> None:
    for words in commands(page):
        flags = dict(word.removeprefix("--").partition("=")[::2] for word in words)
        assert flags.get("mode", "train") in JOBS
        config = load_config(str(ROOT / flags["config"])) if "config" in flags else ConfigDict(own_config(words))
        for flag, value in flags.items():
            if flag.startswith("config."):
                override(config, flag.removeprefix("config."), value)


def test_the_front_page_is_short_and_has_a_command_a_task() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
    assert len(commands(ROOT / "README.md")) >= 10


def test_every_page_is_on_the_map() -> None:
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    linked = set(re.findall(r"\]\((\w+\.md)\)", (ROOT / "docs" / "README.md").read_text()))
    assert pages == linked


def test_what_is_built_is_not_committed() -> None:
    assert "/build/" in (ROOT / ".gitignore").read_text().splitlines()  # which `pip install .` leaves


SHIPPED = [file for file in (ROOT / "configs").glob("*.py") if file.name != "convert.py"]


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_every_config_shows_every_word_of_sampling(file: Path) -> None:
    """So that `--help` lists it."""
    section = load_config(str(file)).sample
    assert {field.name for field in dataclasses.fields(fd.SampleSpec)} | {"labels", "batch", "first"} <= set(section)


def test_the_table_of_words_names_every_key_of_a_spec() -> None:
    table = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "sampling.md").read_text(), re.M)
    assert table == [field.name for field in dataclasses.fields(fd.SampleSpec)]
