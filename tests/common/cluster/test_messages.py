"""What processes tell each other."""

from __future__ import annotations

import pytest

from flexidit_jax.common.cluster import messages
from flexidit_jax.common.errors import UserError


def refuse() -> None:
    raise UserError("it is full")


def test_what_the_first_is_refused_is_so_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, str | None, float]] = []

    def gathered(what: str, own: str | None, patience: float) -> list[str | None]:
        told.append((what, own, patience))
        return [told[0][1], own]

    monkeypatch.setattr(messages, "gathered", gathered)
    for first in (True, False):
        monkeypatch.setattr(messages.cluster, "first", lambda first=first: first)
        with pytest.raises(UserError, match=r"^it is full$"):
            messages.first_does("the look", refuse, 7)
    assert told == [("the look", "it is full", 7), ("the look", None, 7)]  # the second did not do it


def test_what_the_first_does_is_done_once(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    messages.first_does("the look", lambda: done.append(1))
    monkeypatch.setattr(messages.cluster, "first", lambda: False)
    messages.first_does("the look", lambda: done.append(2))
    assert done == [1]
