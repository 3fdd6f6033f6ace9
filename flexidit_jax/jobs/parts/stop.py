"""Signals as a request to come to a good end."""

from __future__ import annotations

import signal
import sys


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
        """The exit status: 0 after SIGTERM, 130 after Ctrl-C."""
        return 130 if self.signal == signal.SIGINT else 0

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        print(f"\n{self._says}", file=sys.stderr, flush=True)
