"""How much was compiled, in words; how much of the time went into it."""

from __future__ import annotations

import functools
import time

import jax.monitoring

COMPILED = "/jax/core/compile/backend_compile_duration"
FROM_CACHE = "/jax/compilation_cache/cache_hits"
#: what comes before a program first runs, each of which may lie within another
STAGES = (COMPILED, "/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration")


class Compilations:
    """Counts everything that jax compiles in this process while the `with` block runs.

    Attributes:
      count: programs of any kind, those read from the cache included.
      from_cache: how many of them were compiled before and read from the persistent cache.
      seconds: spent on all of them.
    """

    def __init__(self) -> None:
        self.count, self.from_cache, self.seconds = 0, 0, 0.0

    def __enter__(self) -> Compilations:
        jax.monitoring.register_event_duration_secs_listener(self._compiled)
        jax.monitoring.register_event_listener(self._event)
        return self

    def __exit__(self, *error: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._compiled)
        jax.monitoring.unregister_event_listener(self._event)

    def __str__(self) -> str:
        return f"compiling took {self.seconds:.1f} s, {self.from_cache} of {self.count} programs came from the cache"

    def _compiled(self, event: str, seconds: float, **more: object) -> None:
        if event == COMPILED:
            self.count, self.seconds = self.count + 1, self.seconds + seconds

    def _event(self, event: str, **more: object) -> None:
        self.from_cache += event == FROM_CACHE


class Waiting:
    """Seconds in which this process traced, lowered or compiled, those of one within another counted once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._spans: list[tuple[float, float]] = []  # apart, in order: an outer one ends after those within

    def heard(self, event: str, seconds: float, **more: object) -> None:
        """What jax calls when something ended."""
        if event not in STAGES:
            return
        now = time.monotonic()
        begin = now - seconds
        while self._spans and self._spans[-1][1] > begin:
            inner, end = self._spans.pop()
            begin, self.seconds = min(begin, inner), self.seconds - (end - inner)
        self._spans.append((begin, now))
        self.seconds += now - begin


@functools.cache
def waiting() -> Waiting:
    """That of this process, from the first call on."""
    counted = Waiting()
    jax.monitoring.register_event_duration_secs_listener(counted.heard)
    return counted
