"""The one exception that a user is meant to read."""

from __future__ import annotations

from flexidit_jax.common.errors import UserError


def test_a_notebook_shows_the_line_alone() -> None:
    """IPython prints what `_render_traceback_` returns in place of a traceback."""
    assert UserError("labels are empty")._render_traceback_() == ["UserError: labels are empty"]
