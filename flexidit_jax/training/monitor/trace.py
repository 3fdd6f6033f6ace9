"""A trace of a few training steps, on request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax


class Trace:
    """Traces `steps` steps after step `at` into a folder that xprof and TensorBoard read.

    Args:
      folder: for the trace.
      at: steps done before it begins; None never traces.
      steps: traced.
    """

    def __init__(self, folder: Path, at: int | None, steps: int = 3) -> None:
        self._folder, self._at, self._steps = folder, at, steps
        self._done: int | None = None  # while tracing

    def before(self, done: int) -> None:
        """Call before the step that follows `done` steps."""
        if done == self._at:
            jax.profiler.start_trace(str(self._folder))
            self._done = done

    def after(self, done: int, result: Any) -> str | None:
        """Call when step `done` is on its way; a line to say when a trace is complete."""
        if self._done is None:
            return None
        self._done = done
        if done < self._at + self._steps:
            return None
        jax.block_until_ready(result)
        return self.close()

    def close(self) -> str | None:
        """Ends a trace that is still running; a line to say if so."""
        if self._done is None:
            return None
        jax.profiler.stop_trace()
        done, self._done = self._done, None
        return f"profile of steps {self._at + 1} to {done}: {self._folder}, for xprof" if done > self._at else None
