"""Progress on a terminal as a bar, elsewhere as a plain line now and then."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType

from tqdm import tqdm

from flexidit_jax.common.cluster import processes as cluster

#: advances that are measured before anything is said of those to come; the first, which warms up, is none of them
MEASURED = 3


class Progress:
    """Counts `total` units, showing rate and time left on standard error.

    The time in which jax compiles is part of no rate, and what is to come is an estimate, which wants a few advances.

    Args:
      total: number of units.
      label: what is being counted.
      start: units done already (a resumed run).
      every: seconds between plain lines where there is no terminal; a rate is that of the last so many, or more.
      enabled: False shows nothing.
      unit: what a unit is called behind the rate.
      also: what else a rate means, in words.
    """

    def __init__(
        self,
        total: float,
        label: str,
        start: float = 0,
        every: float = 10.0,
        enabled: bool = True,
        unit: str = "",
        also: Callable[[float], str] | None = None,
    ) -> None:
        from flexidit_jax.common.compilations import waiting  # jax, which flags do not need

        self._total, self._label, self._every, self._unit = total, label, every, unit and f" {unit}"
        self._done, self._note, self._also, self._waiting = float(start), "", also, waiting()
        self._marks: deque[tuple[float, float]] = deque()  # units done and seconds not spent compiling, oldest first
        self._began = self._shown_at = time.monotonic()
        self._estimated, self._plain = False, enabled
        self._bar = None
        if enabled and sys.stderr.isatty():
            shown = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"  # tqdm's rate compiles
            words = {"total": round(total), "initial": int(start), "desc": label, "bar_format": shown}
            self._bar = tqdm(dynamic_ncols=True, **words)

    @property
    def rate(self) -> float:
        """Units a second of late; 0 before a few advances were measured."""
        if len(self._marks) <= MEASURED:
            return 0.0
        (before, since), (done, now) = self._marks[0], self._marks[-1]
        return (done - before) / max(now - since, 1e-9)

    def advance(self, units: float = 1) -> None:
        """Counts `units` more; parts of a unit add up."""
        first, whole, finished = not self._marks, self._whole, self._finished
        self._done += units
        now = time.monotonic()
        working = now - self._waiting.seconds
        self._marks.append((self._done, working))
        while len(self._marks) > MEASURED + 1 and working - self._marks[1][1] >= self._every:
            self._marks.popleft()
        if self._bar is not None:
            self._bar.set_postfix_str(", ".join(filter(None, (self._pace(), self._note))), refresh=False)
            self._bar.update(self._whole - whole)
        elif self._plain:
            if first:
                self._shown_at = now
            elif finished < self._finished or now - self._shown_at > self._every or self._foreseen():
                self._line(now)

    def note(self, text: str) -> None:
        """Shows `text` behind the rate until the next note."""
        self._note = text

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

    @property
    def _whole(self) -> int:
        """Whole units done; a total need not be whole."""
        return round(self._total) if self._finished else int(self._done + 1e-6)

    @property
    def _finished(self) -> bool:
        return self._done >= self._total * (1 - 1e-9)

    def _foreseen(self) -> bool:
        """Whether there is a first estimate, of a time long enough to say it at once."""
        return not self._estimated and self.rate > 0 and (self._total - self._done) / self.rate > self._every

    def _pace(self) -> str:
        """Rate and time left, nothing where they are not known."""
        if not (rate := self.rate):
            return ""
        pace = f"{rate:.{1 if rate >= 1 else 3}f}{self._unit}/s"
        text = pace if rate >= 1 or self._unit else f"{1 / rate:.1f} s each"  # of a step, such as one of a clip
        text += f", {self._also(rate)}" if self._also else ""
        return text if self._finished else f"{text}, about {_clock((self._total - self._done) / rate)} left"

    def _line(self, now: float) -> None:
        self._shown_at, self._estimated = now, self.rate > 0
        text = f"{self._label}: {self._whole}/{round(self._total)} ({100 * self._done / self._total:.0f} %)"
        took = f"took {_clock(now - self._began)}" if self._finished else ""
        said = ", ".join(filter(None, (text, self._pace(), took)))
        print(f"{said}  {self._note}".rstrip(), file=sys.stderr, flush=True)


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
