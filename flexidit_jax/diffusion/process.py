"""What the rest of the code asks of a noise process; `gaussian`, `flow` and `sit` are three.

A function written for one process alone says so by the type of its argument `process`: `suits` reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, get_type_hints, runtime_checkable

from flexidit_jax.common.types import Array, Prediction


@runtime_checkable
class NoiseProcess(Protocol):
    """The way from data to noise. A time is what the network is told; how far along the way it is, `share` says.

    Attributes:
      steps: T; times lie in 0..T.
      learns_variance: whether the second half of a network of 2C channels is the variance of a reverse step.
      ignores_variance: where it is not, whether networks have 2C channels all the same; nobody reads the second half.
      times: the lowest and the highest time that a network is told.
    """

    steps: int
    learns_variance: bool
    ignores_variance: bool

    @property
    def times(self) -> tuple[float, float]: ...

    def chain(self, n: int) -> Any:
        """The levels of n steps, noise ascending, [n] float64: `t`, `x0_from_x`, `x0_from_output` and what its
        own solvers read. x_0 = x0_from_x x_t + x0_from_output output.

        Raises:
          UserError: it has no n levels.
        """

    def draw_times(self, key: Array, n: int, low: float = 0.0, high: float = 1.0) -> Array:
        """[n] times to train at, between the shares `low` < `high` of the way to noise."""

    def share(self, t: Array) -> Array:
        """How much of the way from data (0) to noise (1) times are."""

    def add_noise(self, x0: Array, noise: Array, t: Array) -> Array:
        """x_t: x0 and noise [B, ...], t [B], of whatever type."""


def read_by(process: NoiseProcess, prediction: Prediction) -> Prediction:
    """What a process reads of a prediction: without a variance to learn none, so that it has no gradient either."""
    return prediction if process.learns_variance else prediction._replace(variance=None)


def suits(function: Callable[..., Any], process: NoiseProcess) -> bool:
    """Whether `function` is written for a process like this one; without a type it is for all."""
    return isinstance(process, get_type_hints(function).get("process", object))
