"""Notes are said once, and of thousands a few."""

from __future__ import annotations

import pytest

from flexidit_jax.common.notes import Sparing, note

Capture = pytest.CaptureFixture[str]


def lines(capsys: Capture) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_a_note_is_said_once(capsys: Capture) -> None:
    for text in ("a", "b", "a"):
        note(text)
    assert lines(capsys) == ["note: a", "note: b"]


def test_of_many_a_few_are_said(capsys: Capture) -> None:
    note("a")
    sparing = Sparing(2)
    for text in ("a", "b", "c", "d", "e"):
        with sparing:
            note(text)
    note("f")
    assert lines(capsys) == ["note: a", "note: b", "note: c", "note: and others alike, which are not told", "note: f"]
    note("d")  # which was not said
    assert lines(capsys) == ["note: d"]
