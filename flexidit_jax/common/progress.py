"""Progress on a terminal as a bar, elsewhere as a plain line now and then."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType

from tqdm import tqdm

from flexidit_jax.common.cluster import processes as cluster


class Progress:
    """Counts `total` units, showing rate and time left on standard error.

    Args:
      total: number of units.
      label: what is being counted.
      start: units done already (a resumed run).
      every: seconds between plain lines where there is no terminal.
      enabled: False shows nothing.
      unit: what a unit is called behind the rate.
    """

    def __init__(
        self, total: int, label: str, start: int = 0, every: float = 10.0, enabled: bool = True, unit: str = ""
    ) -> None:
        self._total, self._label, self._every, self._unit = total, label, every, unit and f" {unit}"
        self._exact, self._done = float(start), start
        self._note = ""
        self._began = time.monotonic()
        self._warm: tuple[float, float] | None = None  # units and time when the first advance was made
        self._shown, self._shown_at = start, self._began  # rates are those since the last line
        self._plain = enabled
        self._bar = None
        if enabled and sys.stderr.isatty():
            named = {"unit": self._unit} if unit else {}
            self._bar = tqdm(total=total, initial=start, desc=label, dynamic_ncols=True, **named)

    @property
    def rate(self) -> float:
        """Units a second since the first `advance`, which may have compiled; 0 before the second."""
        if self._warm is None or self._exact == self._warm[0]:
            return 0.0
        return (self._exact - self._warm[0]) / max(time.monotonic() - self._warm[1], 1e-9)

    def advance(self, units: float = 1) -> None:
        """Counts `units` more; parts of a unit add up."""
        self._exact += units
        before, self._done = self._done, int(self._exact + 1e-6)
        now = time.monotonic()
        first = self._warm is None
        if first:  # it compiles; it says nothing of the rate
            self._warm = self._exact, now
        if self._bar is not None:
            self._bar.update(self._done - before)
        elif self._plain:
            if first:
                self._shown, self._shown_at = self._done, now
            elif now - self._shown_at > self._every or before < self._done == self._total:
                self._line(now)

    def note(self, text: str) -> None:
        """Shows `text` behind the rate until the next note."""
        self._note = text
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)

    def say(self, text: str) -> None:
        """Prints a line without tearing the bar."""
        if self._bar is not None:
            self._bar.write(text)
        else:
            print(text, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def _line(self, now: float) -> None:
        rate = (self._done - self._shown) / max(now - self._shown_at, 1e-9)
        self._shown, self._shown_at = self._done, now
        left = _clock((self._total - self._done) / max(rate, 1e-9))
        time_left = f"{left} left" if self._done < self._total else f"took {_clock(now - self._began)}"
        text = f"{self._label}: {self._done}/{self._total} ({100 * self._done / self._total:.0f} %)"
        print(f"{text}, {rate:.1f}{self._unit}/s, {time_left}  {self._note}".rstrip(), file=sys.stderr, flush=True)


@contextmanager
def warnings_said(bar: Progress) -> Iterator[None]:
    """Within, what the library warns of is said above `bar`, which a line of another's would tear.

    Of several processes the first alone shows a bar; the others say it on standard error, with their name.
    """
    handler = _Said(bar)
    logger = logging.getLogger(__name__.partition(".")[0])
    kept, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = kept


_DETAILED: ContextVar[bool] = ContextVar("detailed", default=False)


@contextmanager
def detailed(asked: bool) -> Iterator[None]:
    """Within, `detail` prints where that is asked for."""
    token = _DETAILED.set(asked)
    try:
        yield
    finally:
        _DETAILED.reset(token)


def detail(text: str) -> None:
    """Prints what few want to read."""
    if _DETAILED.get():
        print(text)


class _Said(logging.Handler):
    def __init__(self, bar: Progress) -> None:
        super().__init__(logging.WARNING)
        self._bar = bar

    def emit(self, record: logging.LogRecord) -> None:
        if cluster.first():
            self._bar.say(record.getMessage())
        else:
            print(f"{cluster.me()}{record.getMessage()}", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
