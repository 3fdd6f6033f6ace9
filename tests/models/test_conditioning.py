"""Class labels: reading what a user typed, the null class, dropping."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.models.conditioning.classes import Conditioner
from flexidit_jax.models.conditioning.condition import as_null, dropped

CLASSES = Conditioner(width=8, classes=10, drop_rate=0.25)


def test_embeds_rows_of_the_table() -> None:
    table = np.random.default_rng(0).normal(size=(11, 8)).astype(np.float32)
    cond = {"label": np.array([3, 10, 3, 5]), "null": np.array([False, False, False, True])}
    context = CLASSES.apply({"params": {"table": table}}, cond)
    np.testing.assert_array_equal(context.vector, table[[3, 10, 3, 10]])
    assert context.tokens is context.mask is None


@pytest.mark.parametrize(
    ("typed", "labels"),
    [
        ([0, 9, None, 10], [0, 9, 10, 10]),
        (range(3), [0, 1, 2]),
        (np.array([4, 5]), [4, 5]),
        (jnp.array([4, 10]), [4, 10]),
        (["0-3", 7, "9-10"], [0, 1, 2, 3, 7, 9, 10]),
        ("0-3,7, 9-10", [0, 1, 2, 3, 7, 9, 10]),
        ("2-2", [2]),
    ],
)
def test_parse(typed: Any, labels: list[int]) -> None:
    read = CLASSES.parse(typed)
    null = np.array(labels) == 10
    np.testing.assert_array_equal(read["label"], np.where(null, 0, labels))
    np.testing.assert_array_equal(read["null"], null)
    assert (read["label"].dtype, read["null"].dtype) == (np.int32, bool)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ([], "labels are empty; give at least one of 0..10"),
        ([3, 11], "label 11 is out of range: 0..10, 10 meaning no class"),
        ([-1], "label -1 is out of range: 0..10, 10 meaning no class"),
        ([1.0], "label 1.0 is not an integer in 0..10"),
        (["cat"], "label 'cat' is not an integer in 0..10"),
        (["3-1"], "labels '3-1' are no range of 0..10, such as 0-9"),
        ("0-99999999999", "labels '0-99999999999' are no range of 0..10, such as 0-9"),
        ([True], "label True is not an integer in 0..10"),
        (3, "labels must be a list such as [0, 9], got 3"),
        ([[1, 2]], "labels must be a list such as [0, 9], got [[1, 2]]"),
        ("cat", "labels must be a list such as [0, 9], got 'cat'"),
    ],
)
def test_parse_refuses(typed: Any, message: str) -> None:
    with pytest.raises(UserError) as caught:
        CLASSES.parse(typed)
    assert str(caught.value) == message


def test_drop_replaces_its_share_by_null_and_nothing_else() -> None:
    cond = CLASSES.parse(np.arange(20_000) % 10)
    some = dropped(cond, jax.random.key(0), CLASSES.drop_rate)
    np.testing.assert_array_equal(some["label"], cond["label"])
    gone = np.asarray(some["null"])
    assert abs(gone.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 / len(gone))
    for digit in range(10):
        assert 0.2 < gone[cond["label"] == digit].mean() < 0.3
    np.testing.assert_array_equal(gone, dropped(cond, jax.random.key(0), 0.25)["null"])
    assert (gone != np.asarray(dropped(cond, jax.random.key(1), 0.25)["null"])).any()
    null = as_null(cond)
    assert dropped(null, jax.random.key(0), 0.0)["null"].all()  # none stays none


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_drop_rate_ends(rate: float) -> None:
    assert np.mean(np.asarray(dropped(CLASSES.parse([0] * 1000), jax.random.key(0), rate)["null"])) == rate


@pytest.mark.parametrize("typed", [[[1], 2], [[1, 2]], "12", 3])
def test_labels_are_one_list(typed: Any) -> None:
    with pytest.raises(
        UserError, match=r"^labels must be a list such as \[0, 9\], got |^label \[1\] is not an integer"
    ):
        CLASSES.parse(typed)


# ---------------------------------------------------------------- Names

OWN = ("10", "2", "Cat", "caf\u00e9", "cat", "cats, black", "sea lion")
FOLDERS = Conditioner(width=8, classes=7, names=list(OWN))


@pytest.mark.parametrize(
    ("typed", "label"),
    [
        ("Cat", 2),  # as it is written, before it is spelled
        ("cat", 4),
        ("2", 1),  # a word is a name
        (2, 2),  # and a number is one
        ("10", 0),
        ("cats, black", 5),
        ("Sea_Lion ", 6),
        ("cafe\u0301", 3),  # an accent of its own, as some file systems have it
    ],
)
def test_names_of_ones_own(typed: str | int, label: int) -> None:
    assert FOLDERS.parse([typed])["label"] == [label]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("CAT", "label 'CAT' names several classes, give a number: 2 (Cat), 4 (cat)"),
        ("7", "no class is called '7'; known: 10, 2, Cat, caf\u00e9, cat, cats, black, sea lion"),
        ("Sea Loin", "no class is called 'Sea Loin'; did you mean 'sea lion'?"),
    ],
)
def test_names_of_ones_own_that_will_not_do(typed: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        FOLDERS.parse([typed])
    assert str(caught.value) == message


def test_names_of_ones_own_go_with_the_model() -> None:
    assert FOLDERS.names == OWN and hash(FOLDERS) == hash(Conditioner(width=8, classes=7, names=OWN))
    with pytest.raises(UserError, match=r"^model\.conditioner\.names names 7 classes, not 6$"):
        Conditioner(width=8, classes=6, names=OWN)
    for names in (3, ["a", 2]):
        with pytest.raises(UserError, match=r"^model\.conditioner\.names must be names or 'imagenet', got "):
            Conditioner(width=8, classes=2, names=names)


def test_what_a_condition_asks_for_is_said_with_its_names() -> None:
    assert FOLDERS.said(FOLDERS.parse([1, 1, None, "Cat"])) == "1 (2), none, 2 (Cat)"
    assert IMAGENET.said(IMAGENET.parse([0])) == "0 (tench)"
    assert IMAGENET.said(IMAGENET.parse(range(12))).endswith(", 9 (ostrich) and 2 more")
    assert CLASSES.said(CLASSES.parse([1])) == ""


IMAGENET = Conditioner(width=8, classes=1000, names="imagenet")


@pytest.mark.parametrize(
    ("typed", "labels"),
    [
        (["golden retriever", 360, None], [207, 360, 1000]),
        (["Golden_Retriever ", "tench", "Tinca tinca", "toilet tissue"], [207, 0, 0, 999]),
        (["man-eater", "tree-frog", "1-2", "ring-necked snake"], [2, 31, 1, 2, 53]),
    ],
)
def test_names(typed: list[Any], labels: list[int]) -> None:
    read = IMAGENET.parse(typed)
    np.testing.assert_array_equal(np.where(read["null"], 1000, read["label"]), labels)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("golden retreiver", "no class is called 'golden retreiver'; did you mean 'golden retriever' or "),
        ("crane", "label 'crane' names several classes, give a number: 134 (crane), 517 (crane)"),
        ("qqqqqq", "no class is called 'qqqqqq'; known: "),
    ],
)
def test_names_that_will_not_do(typed: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        IMAGENET.parse([0, typed])
    assert str(error.value).startswith(message)
    assert len(str(error.value)) < 150


def test_names_must_fit_the_classes() -> None:
    with pytest.raises(UserError, match=r"^model.conditioner.names=imagenet names 1000 classes, not 10$"):
        Conditioner(width=8, classes=10, names="imagenet")
    with pytest.raises(UserError, match=r"^no names of classes called 'imagnet'; did you mean 'imagenet'\?$"):
        Conditioner(width=8, classes=1000, names="imagnet")
    with pytest.raises(UserError, match=r"^label 'tench' is not an integer in 0..10$"):
        CLASSES.parse(["tench"])
