"""Signals as a request to come to a good end, together."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flexidit_jax.common.cluster.messages import Board
from flexidit_jax.common.errors import STOPPED


class Stop:
    """Turns SIGTERM and the first Ctrl-C into a request to stop; a second Ctrl-C interrupts.

    Args:
      says: what is said when the request comes.

    Attributes:
      signal: the one that came.
    """

    def __init__(self, says: str) -> None:
        self.signal: int | None = None
        self._says = says

    @property
    def asked(self) -> bool:
        """Whether to stop."""
        return self.signal is not None

    @property
    def status(self) -> int:
        """The exit status: `STOPPED` after SIGTERM, 130 after Ctrl-C."""
        return status_of([self.signal])

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        print(f"\n{self._says}", file=sys.stderr, flush=True)


class SharedStop(Stop):
    """A request to any of several processes, known to each when it next asks: for work that they do at their own pace.

    Where they work in step, `Votes` says at which step.
    """

    def __init__(self, says: str) -> None:
        super().__init__(says)
        self._board = Board()

    @property
    def asked(self) -> bool:
        """Whether to stop, because this process or another was asked to."""
        return super().asked or bool(self._board.read())

    @property
    def status(self) -> int:
        """The exit status: 130 if anybody pressed Ctrl-C, else `STOPPED`."""
        return status_of(self._board.read())

    def _ask(self, number: int, frame: object) -> None:
        if self.signal is None:
            self._board.put(number)  # before it is said: whoever reads the line may count on all to know
        super()._ask(number, frame)


class Votes:
    """A request to stop any process, known to all of them at the same step.

    Each step every process hands in its own, and reads what all handed in a step before: a gather of one number a
    device, which is done long before anyone waits for it. One process alone decides at once.

    Args:
      stop: this process's request.
      mesh: over the devices of all processes.

    Attributes:
      asked: the signals that came, by process.
    """

    def __init__(self, stop: Stop, mesh: Mesh) -> None:
        self.asked: dict[int, int] = {}
        self._stop = stop
        self._devices = mesh.devices.flatten()
        self._split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        self._gather = jax.jit(lambda votes: votes, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._before: jax.Array | None = None

    @property
    def status(self) -> int:
        """The exit status: 130 if anybody pressed Ctrl-C, else `STOPPED`."""
        return status_of(self.asked.values())

    def count(self) -> bool:
        """Whether to stop after this step; to be asked once a step."""
        own = self._stop.signal or 0
        if self._split.is_fully_addressable:
            self.asked = {0: own} if own else {}
            return bool(own)
        votes = jax.make_array_from_callback(
            self._devices.shape, self._split, lambda index: np.full(self._devices[index].shape, own, np.int32)
        )
        before, self._before = self._before, self._gather(votes)
        if before is not None:
            handed_in = zip(self._devices, np.asarray(before), strict=True)
            self.asked = {device.process_index: int(vote) for device, vote in handed_in if vote}
        return bool(self.asked)


class _Ended(BaseException):
    """SIGTERM came; passes by those who catch every Exception."""


def until_stopped(work: Callable[[], int], says: str) -> int:
    """Does what has nothing to save and is begun anew by the same command.

    Args:
      work: gives an exit status.
      says: what is said when SIGTERM ends it early.

    Returns:
      The status of `work`, or `STOPPED`.
    """

    def end(number: int, frame: object) -> None:
        raise _Ended

    before = signal.signal(signal.SIGTERM, end)
    try:
        return work()
    except _Ended:
        print(f"\n{says}", file=sys.stderr, flush=True)
        return STOPPED
    finally:
        signal.signal(signal.SIGTERM, before)


def status_of(signals: Iterable[int | None]) -> int:
    """The exit status of a job that came to a good end before it was finished."""
    return 130 if signal.SIGINT in signals else STOPPED
