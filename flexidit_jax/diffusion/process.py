"""What the rest of the code asks of a noise process; `gaussian` and `flow` are two.

A function written for one process alone says so by the type of its argument `process`: `suits` reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, get_type_hints, runtime_checkable

from flexidit_jax.common.types import Array


@runtime_checkable
class NoiseProcess(Protocol):
    """From data at time 0 to noise at time T.

    Attributes:
      steps: T.
      learns_variance: whether a network may predict the variance of a reverse step beside its output.
      times: the lowest and the highest time that a network is told.
    """

    steps: int
    learns_variance: bool

    @property
    def times(self) -> tuple[float, float]: ...

    def chain(self, n: int) -> Any:
        """The noise levels of n steps, ascending, [n] float64: `t`, `x0_from_x`, `x0_from_output` and what its
        own solvers read. x_0 = x0_from_x x_t + x0_from_output output.

        Raises:
          UserError: it has no n levels.
        """

    def draw_times(self, key: Array, n: int, low: float = 0.0, high: float = 1.0) -> Array:
        """[n] times to train at, between the shares `low` < `high` of T."""

    def add_noise(self, x0: Array, noise: Array, t: Array) -> Array:
        """x_t: x0 and noise [B, ...], t [B], of whatever type."""


def suits(function: Callable[..., Any], process: NoiseProcess) -> bool:
    """Whether `function` is written for a process like this one; without a type it is for all."""
    return isinstance(process, get_type_hints(function).get("process", object))
