"""The one exception that a user is meant to read: alone, and several in one line."""

from __future__ import annotations

import pytest

from flexidit_jax.common.errors import UserError, together


def refuse(text: str) -> None:
    raise UserError(text)


def test_what_is_wrong_is_said_together_in_order_and_once() -> None:
    asked = []
    with pytest.raises(UserError) as caught:
        together(lambda: refuse("b"), lambda: asked.append(1), lambda: refuse("a"), lambda: refuse("b"))
    assert (str(caught.value), asked) == ("b; also, a", [1])
    assert together(lambda: 1, lambda: None) == [1, None]


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError):
        together(lambda: refuse("b"), lambda: {}["x"])


def test_a_notebook_shows_the_line_alone() -> None:
    """IPython prints what `_render_traceback_` returns in place of a traceback."""
    assert UserError("labels are empty")._render_traceback_() == ["UserError: labels are empty"]
