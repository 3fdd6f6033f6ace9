"""How fast training goes, and what memory it takes."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable

import jax

from flexidit_jax.common.types import Patch

GIB = 2**30


class Throughput:
    """Counts steps between two looks at the clock.

    Args:
      batch: records a step, over all devices.
      flops: model FLOPs of a step at a mode, for the whole batch.
      devices: that share them.
      peak: FLOP/s of one device; None when unknown, then no utilisation is given.
      clock: seconds.
    """

    def __init__(
        self,
        batch: int,
        flops: Callable[[Patch], float],
        devices: int,
        peak: float | None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._batch, self._step_flops, self._devices, self._peak, self._clock = batch, flops, devices, peak, clock
        self.restart()

    def restart(self) -> None:
        """Forgets the time since the last look: it went into something else than steps."""
        self._steps, self._flops, self._since = 0, 0.0, self._clock()

    def add(self, patch: Patch) -> None:
        """One more step, which ran at `patch`."""
        self._steps, self._flops = self._steps + 1, self._flops + self._step_flops(patch)

    def scalars(self) -> dict[str, float]:
        """Rates since the last look, and begins anew: empty when no step was made.

        Returns:
          samples_per_second; tflops_per_device, model FLOPs alone (nothing recomputed), in 10^12 a second;
          model_flops_utilization, their share of the peak.
        """
        seconds, rates = self._clock() - self._since, {}
        if self._steps and seconds > 0:
            rates["samples_per_second"] = self._steps * self._batch / seconds
            per_device = self._flops / seconds / self._devices
            rates["tflops_per_device"] = per_device / 1e12
            if self._peak is not None:
                rates["model_flops_utilization"] = per_device / self._peak
        self.restart()
        return rates


def memory() -> dict[str, float]:
    """The most this process held so far, in GiB: of its first device, where that tells, and of the host."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    held = {"memory/host_peak_gib": peak / GIB}
    stats = jax.local_devices()[0].memory_stats()  # None on the CPU
    if stats and "peak_bytes_in_use" in stats:
        held["memory/device_peak_gib"] = stats["peak_bytes_in_use"] / GIB
    return held
