"""The search for the largest batch, over devices whose programs hold what a formula says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from flexidit_jax.programs.cost import Compiled
from flexidit_jax.programs.largest_batch import MOST, NEAR, TRIES, largest_batch

HBM = 1000.0


class Device:
    """Compiles for `HBM` bytes; keeps which batches it was asked for."""

    def __init__(self, held: Callable[[int], float], refuses: bool = False) -> None:
        self.held, self.refuses, self.asked = held, refuses, []

    def __call__(self, batch: int) -> Compiled:
        self.asked.append(batch)
        total = self.held(batch)
        fits = total <= HBM
        if self.refuses and not fits:  # as the compiler of a TPU does
            return Compiled("p", batch, 1, 0.0, 0.0, 0.0, fits)
        sizes = {"arguments": 0, "outputs": 0, "aliased": 0, "temporaries": total - self.held(0), "code": self.held(0)}
        return Compiled("p", batch, 1, 0.0, 0.0, 0.0, fits, **sizes)


def found(device: Device, batch: int, multiple: int = 1) -> int | None:
    return largest_batch(device(batch), device, multiple, HBM)


@pytest.mark.parametrize("refuses", [False, True])
@pytest.mark.parametrize("first", [1, 8, 64, 500])
@pytest.mark.parametrize(
    "held",
    [
        lambda batch: 100 + 7 * batch,
        lambda batch: 100 + 0.9 * batch,
        lambda batch: 10 + 0.3 * batch + 0.0003 * batch**2,  # more and more
        lambda batch: 5 * batch if batch < 50 else 3 * batch + 100,  # recomputed where there is less room
    ],
)
def test_near_the_truth_and_seen_to_fit(held: Callable[[int], float], first: int, refuses: bool) -> None:
    device = Device(held, refuses)
    most = found(device, first)
    truth = max(batch for batch in range(1, 10_000) if held(batch) <= HBM)
    assert truth * (1 - 2 / NEAR) - 1 <= most <= truth
    assert most in device.asked and len(device.asked) <= 1 + TRIES


def test_batches_are_multiples() -> None:
    device = Device(lambda batch: 100 + 7 * batch)
    assert found(device, 48, multiple=24) == 120
    assert all(batch % 24 == 0 for batch in device.asked)


def test_a_line_is_enough() -> None:
    device = Device(lambda batch: 100 + 0.5 * batch)
    assert found(device, 64) == 1792
    assert device.asked == [64, 1792]


def test_where_the_least_does_not_fit_there_is_none() -> None:
    assert found(Device(lambda batch: 2000 + batch), 64) == 0
    assert found(Device(lambda batch: 30 + 20 * batch), 256, multiple=64) == 0
    assert found(Device(lambda batch: 2000 + batch, refuses=True), 4) == 0


def test_the_least_is_tried_whatever_a_line_says() -> None:
    assert found(Device(lambda batch: 10 + batch if batch < 4 else 5000 + batch), 64) == 3


def test_what_is_not_settled_is_not_said() -> None:
    assert found(Device(lambda batch: 2000 + batch, refuses=True), 4096) is None


def test_no_more_is_tried() -> None:
    device = Device(lambda batch: 100 + 1e-6 * batch)
    assert found(device, 64) == MOST and len(device.asked) == 2
    assert found(Device(lambda batch: 100.0), 64) == 64 * 2**TRIES  # nothing grows: doubled as often as it may be
