"""Corrupt records: the next sound one instead, named once, counted, and too many of them refused."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.data.corrupt import Corrupt, Intact, check_share
from flexidit_jax.data.loader import batches


class Damaged(Sequence):
    """0..n-1, some of them corrupt."""

    def __init__(self, n: int, corrupt: set[int]) -> None:
        self.n, self.corrupt, self.tried = n, corrupt, []

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> dict:
        self.tried.append(i)
        if i in self.corrupt:
            raise Corrupt(f"image {i}", "torn")
        return {"label": np.int32(i)}


def labels(source: Sequence[dict]) -> list[int]:
    return [int(record["label"]) for record in source]


def warnings(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.levelno == logging.WARNING]


def test_the_next_sound_record_takes_the_place(caplog: pytest.LogCaptureFixture) -> None:
    source = Intact(Damaged(10, {2, 5, 6, 9}), 0.5)
    assert len(source) == 10
    assert labels(source) == [0, 1, 3, 3, 4, 7, 7, 7, 8, 0]
    assert source[-1]["label"] == 0
    with pytest.raises(IndexError):
        source[10]
    assert warnings(caplog) == [
        "corrupt, skipped (1 of at most 5): image 2 (torn)",
        "corrupt, skipped (2 of at most 5): image 5 (torn)",
        "corrupt, skipped (3 of at most 5): image 6 (torn)",
        "corrupt, skipped (4 of at most 5): image 9 (torn)",
    ]


def test_a_corrupt_record_is_tried_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    damaged = Damaged(10, {2, 3})
    source = Intact(damaged, 0.5)
    for _ in range(3):
        assert source[2]["label"] == 4
    assert damaged.tried == [2, 3, 4, 4, 4]
    assert len(warnings(caplog)) == 2


def test_many_threads_read_the_same_and_name_each_once(caplog: pytest.LogCaptureFixture) -> None:
    corrupt = set(range(0, 400, 3))
    expected = labels(Intact(Damaged(400, corrupt), 0.5))
    caplog.clear()
    source = Intact(Damaged(400, corrupt), 0.5)
    with ThreadPoolExecutor(8) as pool:
        read = [int(record["label"]) for record in pool.map(source.__getitem__, list(range(400)) * 3)]
    assert read == expected * 3
    assert len(warnings(caplog)) == len(set(warnings(caplog))) == len(corrupt)


def test_batches_have_no_hole_and_a_resumed_run_reads_the_same() -> None:
    def stream(threads: int, host: int = 0, hosts: int = 1):
        return batches(Intact(Damaged(20, {4, 11}), 0.1), 4, 1, None, threads, host, hosts)

    unbroken = stream(0)
    drawn = [next(unbroken)["label"].tolist() for _ in range(12)]
    assert {len(batch) for batch in drawn} == {4}
    assert sorted(np.concatenate(drawn[:5])) == sorted([*(set(range(20)) - {4, 11}), 5, 12])
    resumed = stream(3)
    resumed.set_state({"next_index": 6})
    assert [next(resumed)["label"].tolist() for _ in range(6)] == drawn[6:]
    halves = [stream(1, host, 2) for host in range(2)]
    assert [[label for half in halves for label in next(half)["label"].tolist()] for _ in range(12)] == drawn


@pytest.mark.parametrize(
    ("records", "share", "admitted"),
    [(10_000, 0.001, 10), (10_999, 0.001, 10), (500, 0.001, 1), (500, 0.0, 0), (10, 0.5, 5), (1, 0.5, 0), (2, 0.9, 1)],
)
def test_more_than_the_share_is_refused(records: int, share: float, admitted: int) -> None:
    source = Intact(Damaged(records, set(range(admitted))), share)
    assert labels([source[0]]) == [admitted]
    source = Intact(Damaged(records, set(range(admitted + 1))), share)
    with pytest.raises(UserError) as caught:
        source[0]
    with pytest.raises(UserError, match="^" + re.escape(str(caught.value))):  # from then on, whatever is read
        source[-1]
    assert str(caught.value) == (
        f"{admitted + 1:,} of {records:,} records are corrupt, more than dataset.max_corrupt={share:g} admits;"
        f" the last is image {admitted} (torn); mend or remove them, or raise dataset.max_corrupt"
    )


def test_other_errors_are_not_corruption() -> None:
    class Unread(Damaged):
        def __getitem__(self, i: int) -> dict:
            raise OSError("the network is away")

    with pytest.raises(OSError, match="the network is away"):
        Intact(Unread(10, set()), 0.5)[0]


@pytest.mark.parametrize("share", [-0.1, 1, 5])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(UserError, match=rf"^dataset.max_corrupt is a share in \[0, 1\), such as 0.001, got {share}$"):
        check_share(share)


def test_the_next_sound_record_is_one_of_its_bin() -> None:
    damaged = Damaged(8, {1, 4, 6})
    damaged.bins = np.array([0, 1, 0, 1, 2, 2, 0, 1])
    source = Intact(damaged, 0.5)
    assert source.bins is damaged.bins
    assert labels(source) == [0, 3, 2, 3, 5, 5, 0, 7]


def test_a_bin_without_a_sound_record_is_refused() -> None:
    damaged = Damaged(8, {4, 5})
    damaged.bins = np.array([0, 1, 0, 1, 2, 2, 0, 1])
    source = Intact(damaged, 0.9)
    assert source[3]["label"] == 3
    for i in (5, 0):  # whatever is asked for next
        with pytest.raises(UserError) as caught:
            source[i]
        assert str(caught.value) == (
            "all 2 records of a bin are corrupt, and no sound one can take their place; mend or remove them, or"
            " train without dataset.bins"
        )
