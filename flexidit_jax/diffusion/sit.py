"""The flow of SiT (arXiv 2401.08740): that of `diffusion.flow`, with time and velocity read from the other end.

    t = 1 - s in [0, 1]: 0 is noise and 1 is data, x_t = t x_0 + (1 - t) noise       (1)
    output = dx/dt = x_0 - noise, so x_0 = x_t + (1 - t) output                      (2)

Published networks have 2C channels, like DiT's, but the second half learns nothing and nobody reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from flexidit_jax.common.types import Array
from flexidit_jax.diffusion import flow


@dataclass(frozen=True)
class Process(flow.Process):
    """A flow from noise at time 0 to data at time 1.

    Attributes:
      shift: as in `flow`: above 1 spends more of the steps on noisy levels.
    """

    ignores_variance: ClassVar[bool] = True
    sign: ClassVar[int] = -1
    steps: ClassVar[int] = 1

    def time(self, s: Array) -> Array:
        """Shares of noise -> the times the network is told."""
        return 1 - s

    def share(self, t: Array) -> Array:
        """The inverse of `time`."""
        return 1 - t
