"""Several refusals in one line."""

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
