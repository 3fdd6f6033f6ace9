"""Progress on a terminal as a bar, elsewhere as a plain line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm


class Progress:
    """Counts `total` units, showing rate and time left on standard error.

    Args:
      total: number of units.
      label: what is being counted.
      start: units done already (a resumed run).
      every: seconds between plain lines where there is no terminal.
      enabled: False shows nothing.
    """

    def __init__(self, total: int, label: str, start: int = 0, every: float = 10.0, enabled: bool = True) -> None:
        self._total, self._label, self._done, self._every = total, label, start, every
        self._note = ""
        self._begin, self._first = time.monotonic(), start
        self._shown = self._begin
        self._plain = enabled
        self._bar = None
        if enabled and sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=start, desc=label, dynamic_ncols=True)

    def advance(self, units: int = 1) -> None:
        """Counts `units` more."""
        self._done += units
        if self._bar is not None:
            self._bar.update(units)
        elif self._plain and (self._due() or (self._done == self._total and self._shown > self._begin)):
            self._shown = time.monotonic()
            self._line()

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

    def _due(self) -> bool:
        return time.monotonic() - self._shown > self._every

    def _line(self) -> None:
        elapsed = time.monotonic() - self._begin
        rate = (self._done - self._first) / max(elapsed, 1e-9)
        left = (self._total - self._done) / max(rate, 1e-9)
        share = 100 * self._done / self._total
        text = f"{self._label}: {self._done}/{self._total} ({share:.0f} %), {rate:.1f}/s, {_clock(left)} left"
        print(f"{text}  {self._note}".rstrip(), file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
