"""What a caller hands in: read as what it is, or refused in a line that names it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.common.arguments import finite_array, holds, path_of, shown, typed
from flexidit_jax.common.errors import UserError


@pytest.mark.parametrize(
    ("value", "annotation", "read"),
    [
        (10, "int", 10),
        (10.0, "int", 10),
        (-0.0, "int | None", 0),
        (np.int64(10), "int", 10),
        (np.uint8(10), "int | None", 10),
        (np.float32(10), "int", 10),
        (np.array(10), "int", 10),
        (jnp.asarray(10), "int", 10),
        (10.0, "int | float", 10),
        (10.0, "float", 10.0),
        (np.float32(1.5), "float | str", 1.5),
        (10, "float", 10),
        (np.bool_(True), "bool", True),
        (np.str_("x"), "str", "x"),
        (None, "int | None", None),
        ({"a": 1}, "Section", {"a": 1}),
        ((1, 2), "tuple[int, int]", (1, 2)),
    ],
)
def test_what_suits_an_annotation(value: Any, annotation: str, read: Any) -> None:
    found = typed(value, annotation, "n")
    assert found == read and type(found) is type(read)


@pytest.mark.parametrize(
    ("value", "annotation", "message"),
    [
        (10.5, "int", "n must be int, got 10.5"),
        (True, "int", "n must be int, got True"),
        (np.bool_(True), "float", "n must be float, got True"),
        (1, "bool", "n must be bool, got 1"),
        (math.nan, "int | None", "n must be int or None, got nan"),
        (math.inf, "int", "n must be int, got inf"),
        (-(2**63), "int", "n must lie within 64 bits, got -9223372036854775808"),
        (
            1e300,
            "int | None",
            "n must lie within 64 bits, got 100000000000000005250476025520",
        ),
        ("10", "int", "n must be int, got '10'"),
        (None, "str", "n must be str, got None"),
        (np.zeros((2, 3)), "float", "n must be float, got float64 [2, 3]"),
        (3, "Section | None", "n must be a section or None, got 3"),
        (None, "tuple[int, int]", "n must be tuple[int, int], got None"),
    ],
)
def test_what_does_not(value: Any, annotation: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        typed(value, annotation, "n")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("value", [[[1, 2], [3, 4]], np.ones(3, np.int8), jnp.ones(2, jnp.bfloat16), (1.5, 2)])
def test_finite_arrays(value: Any) -> None:
    np.testing.assert_array_equal(finite_array(value, "x"), np.asarray(value))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[1.0, 2.0], [3.0, math.nan]], "x must be finite, got nan at [1, 1]"),
        (np.array([1.0, -math.inf]), "x must be finite, got -inf at [1]"),
        (np.float32(math.nan), "x must be finite, got nan at []"),
        (jnp.array([1, math.inf], jnp.bfloat16), "x must be finite, got inf at [1]"),
        ([1e39], "x must be finite, got 1e+39 at [0]"),  # no float32 holds it
        ([[1], [1, 2]], "x must be an array of numbers, got [[1], [1, 2]]"),
        (["a"], "x must be an array of numbers, got ['a']"),
        (np.array([True]), "x must be an array of numbers, got bool [1]"),
        (np.array([1j]), "x must be an array of numbers, got complex128 [1]"),
        (None, "x must be an array of numbers, got None"),
    ],
)
def test_arrays_that_are_none(value: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        finite_array(value, "x")
    assert str(caught.value) == message


def test_what_is_traced_is_not_looked_into() -> None:
    np.testing.assert_array_equal(jax.jit(lambda x: finite_array(x, "x") + 1)(np.array([math.nan, 1])), [math.nan, 2])


def test_what_float32_holds() -> None:
    assert holds([1, 2.5, 10**20]) and holds(3.4e38) and holds(())
    assert not holds(3.5e38) and not holds([[0.0, math.nan]])


def test_paths(tmp_path: Path) -> None:
    assert path_of(str(tmp_path), "path") == path_of(tmp_path, "path") == tmp_path
    assert path_of("not there", "path") == Path("not there")
    for wrong in (None, 3, math.nan, b"x", "", "a\0b", ["a"]):
        with pytest.raises(UserError, match=r"^path must be a path, got "):
            path_of(wrong, "path")
    with pytest.raises(UserError, match=r"^path 'xxx.*\.\.\. cannot be looked at \(File name too long\)$"):
        path_of("x" * 5000, "path")


def test_what_a_message_shows_is_one_short_line() -> None:
    assert shown("a b") == "'a b'" and shown(np.float32(1.5)) == repr(np.float32(1.5))
    assert shown(np.zeros((2, 3), np.float32)) == "float32 [2, 3]"
    assert shown([np.zeros((9, 9))] * 9).startswith("[array([[0., 0.,")
    assert all("\n" not in shown(value) and len(shown(value)) <= 100 for value in ([np.zeros((9, 9))] * 9, "a\n" * 99))
