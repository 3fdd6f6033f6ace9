"""The digits and their split; batches and their position."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.datasets import load_digits

from flexidit_jax.common.errors import UserError
from flexidit_jax.data.digits import Dataset
from flexidit_jax.data.loader import Batches, batches


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return Dataset()


def rows(records: list[dict]) -> np.ndarray:
    return np.stack([np.append(record["x"].ravel(), record["label"]) for record in records])


def test_split_sizes(digits: Dataset) -> None:
    assert (len(digits.source()), len(digits.held_out())) == (1500, 297)
    small = Dataset(held_out=1787)
    assert (len(small.source()), len(small.held_out())) == (10, 1787)


def test_a_record(digits: Dataset) -> None:
    for record in (digits.source()[0], digits.held_out()[-1]):
        assert record.keys() == {"x", "label"}
        assert record["x"].shape == digits.shape == (1, 8, 8, 1)
        assert record["x"].dtype == np.float32
        assert record["label"].dtype == np.int32
    x = np.stack([record["x"] for record in digits.source()])
    assert (x.min(), x.max()) == (-1, 1)


def test_the_two_parts_are_the_whole_without_overlap(digits: Dataset) -> None:
    images, labels = load_digits(return_X_y=True)
    whole = np.column_stack([images / 8 - 1, labels])
    parts = np.concatenate([rows(digits.source()), rows(digits.held_out())])
    np.testing.assert_array_equal(parts[np.lexsort(parts.T)], whole[np.lexsort(whole.T)])
    kept = {row.tobytes() for row in rows(digits.source())}
    assert not any(row.tobytes() in kept for row in rows(digits.held_out()))


def test_the_split_is_stratified(digits: Dataset) -> None:
    labels = load_digits().target
    held = np.bincount([record["label"] for record in digits.held_out()], minlength=10)
    assert np.abs(held - 297 * np.bincount(labels) / len(labels)).max() < 1


def test_the_split_follows_its_seed(digits: Dataset) -> None:
    np.testing.assert_array_equal(rows(Dataset().held_out()), rows(digits.held_out()))
    assert (rows(Dataset(split_seed=1).held_out()) != rows(digits.held_out())).any()


@pytest.mark.parametrize("held_out", [9, 1788])
def test_a_split_that_leaves_nothing_is_refused(held_out: int) -> None:
    with pytest.raises(UserError) as caught:
        Dataset(held_out=held_out)
    assert str(caught.value) == f"dataset.held_out must lie in 10..1787, got {held_out}"


SOURCE = [{"x": np.full((1, 2, 2, 1), i, np.float32), "label": np.int32(i)} for i in range(10)]


def take(iterator: Batches, n: int) -> list[list[int]]:
    return [next(iterator)["label"].tolist() for _ in range(n)]


def test_batches_run_across_epoch_ends() -> None:
    drawn = take(batches(SOURCE, batch=4, seed=0), 10)
    assert [len(batch) for batch in drawn] == [4] * 10
    order = np.concatenate(drawn).reshape(4, 10)
    np.testing.assert_array_equal(np.sort(order), np.tile(np.arange(10), (4, 1)))  # each epoch reads all, once
    assert len({tuple(epoch) for epoch in order}) == 4  # in another order


def test_keys_of_a_batch_belong_together() -> None:
    batch = next(batches(SOURCE, batch=4, seed=0))
    assert batch["x"].shape == (4, 1, 2, 2, 1)
    np.testing.assert_array_equal(batch["x"].mean((1, 2, 3, 4)), batch["label"])


def test_the_order_follows_the_seed() -> None:
    first = take(batches(SOURCE, batch=4, seed=3), 5)
    assert take(batches(SOURCE, batch=4, seed=3, threads=2), 5) == first
    assert take(batches(SOURCE, batch=4, seed=4), 5) != first


@pytest.mark.parametrize("before", [0, 3, 7])
def test_a_position_resumes(before: int) -> None:
    reader = batches(SOURCE, batch=4, seed=0)
    take(reader, before)
    position = json.loads(json.dumps(reader.get_state()))  # as a checkpoint keeps it
    following = take(reader, 6)
    reader.set_state(position)
    assert take(reader, 6) == following
    fresh = batches(SOURCE, batch=4, seed=0)
    fresh.set_state(position)
    assert take(fresh, 6) == following
    assert take(batches(SOURCE, batch=4, seed=0), 6) != following or before == 0
