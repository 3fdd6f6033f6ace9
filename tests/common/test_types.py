"""Spellings of a patch size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Patch, as_patch, patch_name, short_patch_name


@pytest.mark.parametrize(
    ("value", "patch"),
    [
        (2, (1, 2, 2)),
        (np.int64(4), (1, 4, 4)),
        ("4", (1, 4, 4)),
        ((2, 4), (1, 2, 4)),
        ("2x4", (1, 2, 4)),
        ([2, 4, 8], (2, 4, 8)),
        ("2x4x8", (2, 4, 8)),
        ((3,), (1, 3, 3)),
    ],
)
def test_as_patch(value: Any, patch: Patch) -> None:
    read = as_patch(value)
    assert read == patch
    assert [type(side) for side in read] == [int] * 3  # hashable and JSON-ready


@pytest.mark.parametrize("value", ["0", 0, (2, 0), (1, 2, 3, 4), [], (-1,), 2.5, (2.5, 4), ("a",), True])
def test_as_patch_refuses_numbers(value: Any) -> None:
    with pytest.raises(UserError) as caught:
        as_patch(value)
    assert str(caught.value) == f"patch {value!r} is not one to three positive integers, such as 4, (2, 4) or '2x4x4'"


@pytest.mark.parametrize("value", ["", "2x", "x2", "a", "2.5", "-2", "1x2x3x4", "2 x 4"])
def test_as_patch_refuses_text(value: str) -> None:
    with pytest.raises(UserError) as caught:
        as_patch(value)
    assert str(caught.value) == f"patch {value!r} is not one to three positive integers, such as 4, (2, 4) or '2x4x4'"


@pytest.mark.parametrize(
    ("patch", "name", "short"),
    [
        ((1, 4, 4), "1x4x4", "4"),
        ((1, 2, 4), "1x2x4", "2x4"),
        ((2, 4, 4), "2x4x4", "2x4x4"),
        ((4, 1, 1), "4x1x1", "4x1x1"),
    ],
)
def test_names_are_read_back(patch: Patch, name: str, short: str) -> None:
    assert (patch_name(patch), short_patch_name(patch)) == (name, short)
    assert as_patch(name) == as_patch(short) == patch
