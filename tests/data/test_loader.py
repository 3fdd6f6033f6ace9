"""Rows of every batch for each host: together the batches of one host, at any position, by any number of threads."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from flexidit_jax.data.loader import Batches, batches

RECORDS, BATCH = 22, 24  # of rows enough for several chunks on one host and on two
SOURCE = [{"x": np.full((1, 2, 2, 1), i, np.float32), "label": np.int32(i)} for i in range(RECORDS)]


def noisy(record: dict, rng: np.random.Generator) -> dict:
    return {**record, "x": record["x"] + rng.normal(size=record["x"].shape).astype(np.float32)}


def streams(hosts: int, threads: int = 2) -> list[Batches]:
    return [batches(SOURCE, BATCH, 5, noisy, threads, host, hosts) for host in range(hosts)]


def joined(shards: list[Batches], number: int) -> dict[str, np.ndarray]:
    drawn = [[next(stream) for stream in shards] for _ in range(number)]
    return {key: np.stack([np.concatenate([part[key] for part in parts]) for parts in drawn]) for key in ("x", "label")}


@pytest.mark.parametrize(("hosts", "threads"), [(1, 0), (1, 3), (2, 2), (4, 0), (4, 2), (8, 1)])
def test_the_hosts_together_read_the_batches_of_one(hosts: int, threads: int) -> None:
    whole = joined(streams(1, threads=1), 12)  # thirteen epochs; they end within batches
    parts = joined(streams(hosts, threads), 12)
    np.testing.assert_array_equal(parts["label"], whole["label"])
    np.testing.assert_array_equal(parts["x"], whole["x"])  # augmentation included


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_the_shards_of_an_epoch_are_disjoint_and_complete(hosts: int) -> None:
    shards = streams(hosts)
    labels = joined(shards, 11)["label"]
    assert labels.shape == (11, BATCH)
    for epoch in labels.reshape(12, RECORDS):
        assert sorted(epoch) == list(range(RECORDS))


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 4), (4, 2)])
def test_a_position_is_that_of_any_number_of_hosts_and_threads(before: int, after: int) -> None:
    shards = streams(before)
    joined(shards, 5)
    positions = [json.loads(json.dumps(stream.get_state())) for stream in shards]
    assert all(position == positions[0] for position in positions)
    expected = joined(shards, 4)
    others = streams(after, threads=0)
    joined(others, 2)  # it goes back as well as forth
    for stream in others:
        stream.set_state(positions[0])
    following = joined(others, 4)
    np.testing.assert_array_equal(following["x"], expected["x"])
    np.testing.assert_array_equal(following["label"], expected["label"])


def test_order_and_augmentation_follow_the_seed() -> None:
    def epoch(seed: int) -> tuple[np.ndarray, np.ndarray]:
        """The order of the records, and a number that was added to each."""
        batch = next(batches(SOURCE, BATCH, seed, noisy, threads=0))
        labels, x = batch["label"][:RECORDS], batch["x"][:RECORDS, 0, 0, 0, 0]
        return labels, (x - labels)[np.argsort(labels)]

    first, again, other = (epoch(seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(again, first)
    assert (other[0] != first[0]).sum() > RECORDS / 2
    assert np.abs(other[1] - first[1]).min() > 1e-4  # of no record the same


def test_a_host_reads_its_own_rows_alone() -> None:
    read: list[int] = []

    class Counted(list):
        def __getitem__(self, i: int) -> dict:
            read.append(i)
            return super().__getitem__(i)

    stream = batches(Counted(SOURCE), BATCH, 5, None, 0, host=1, hosts=4)
    drawn = np.concatenate([next(stream)["label"] for _ in range(3)])
    assert read == drawn.tolist() and len(drawn) == 18


def test_closing_ends_the_threads() -> None:
    others = set(threading.enumerate())  # such as of streams of other tests, which may end meanwhile
    stream = batches(SOURCE, BATCH, 5, threads=3)
    next(stream)
    own = set(threading.enumerate()) - others
    assert own
    stream.close()
    for thread in own:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in own)


def test_shares_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="host 0 of 5 has no rows of a batch of 24"):
        batches(SOURCE, BATCH, 0, hosts=5)
    with pytest.raises(ValueError, match="host 2 of 2 has no rows"):
        batches(SOURCE, BATCH, 0, host=2, hosts=2)


# ---------------------------------------------------------------- Bins


class Binned(list):
    """Records of three shapes: 12, 3 and 7 of them."""

    bins = np.array([0, 2, 0, 1, 0, 2] * 3 + [0, 0, 0, 2], int)

    def __init__(self) -> None:
        shapes = [(1, 2 + own, 2, 1) for own in self.bins]
        super().__init__({"x": np.full(shape, i, np.float32), "label": i} for i, shape in enumerate(shapes))


def binned(hosts: int, threads: int = 2, seed: int = 5) -> list[Batches]:
    return [batches(Binned(), 4, seed, noisy, threads, host, hosts) for host in range(hosts)]


def test_a_batch_is_of_one_bin_on_every_host() -> None:
    whole, shards = binned(1, threads=1)[0], binned(2)
    seen = []
    for _ in range(60):
        parts = [next(stream) for stream in shards]
        x = np.concatenate([part["x"] for part in parts])
        np.testing.assert_array_equal(x, next(whole)["x"])
        seen += [(x.shape[2] - 2, label) for part in parts for label in part["label"]]
    for own, number in seen:
        assert Binned.bins[number] == own
    times = np.bincount([number for _, number in seen], minlength=22)
    assert times.min() >= 6 and times.max() <= 17  # 240 reads of 22 records: about eleven each
    for own in range(3):  # of a bin all equally often, to within one
        assert np.ptp(times[Binned.bins == own]) <= 1


def test_a_position_among_bins_is_that_of_any_number_of_hosts() -> None:
    [stream] = binned(1)
    for _ in range(7):
        next(stream)
    position = json.loads(json.dumps(stream.get_state()))
    expected = [next(stream)["x"] for _ in range(5)]
    others = binned(4, threads=0)
    for other in others:
        other.set_state(position)
    for whole in expected:
        np.testing.assert_array_equal(np.concatenate([next(other)["x"] for other in others]), whole)


def test_the_order_within_a_bin_follows_the_seed() -> None:
    def first(seed: int) -> list[int]:
        """The records of bin 0 in the order in which they are read."""
        [stream] = binned(1, seed=seed)
        labels = [next(stream)["label"] for _ in range(40)]
        return [int(label) for batch in labels for label in batch if Binned.bins[label] == 0][:12]

    orders = [first(seed) for seed in (5, 5, 6)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[2]) == np.flatnonzero(Binned.bins == 0).tolist()
