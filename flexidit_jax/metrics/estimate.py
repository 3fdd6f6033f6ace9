"""A number measured on samples, and how far it can be trusted; two of them on paired samples.

influence u_i        how the number moves with the weight of sample i
standard error       std(u) / sqrt(N)
of a difference      std(u_a - u_b) / sqrt(N), where sample i of both had the same noise and label
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from flexidit_jax.common.errors import UserError


@dataclass(frozen=True)
class Estimate:
    """A number and the influence of every sample on it.

    Attributes:
      value: the number.
      influence: [N], up to a constant.
      of_reference: whether those that influence it are the images of the reference, as of recall, and no samples.
    """

    value: float
    influence: np.ndarray = field(repr=False)
    of_reference: bool = False

    @property
    def error(self) -> float:
        """The standard error: what drawing other samples would change. Neither bias nor the training is in it."""
        return standard_error(self.influence)

    def __str__(self) -> str:
        return with_error(self.value, self.error)


@dataclass(frozen=True)
class Difference:
    """How much more one set of samples scores than another.

    Attributes:
      value: the first less the second.
      error: the standard error of that.
      paired: whether sample i of both had the same noise and label; or both errors are of the same reference images.
    """

    value: float
    error: float
    paired: bool

    @property
    def tie(self) -> bool:
        """Whether two standard errors cover 0."""
        return abs(self.value) <= 2 * self.error

    def __str__(self) -> str:
        text = f"{_rounded(self.value, 2 * self.error, '+')} +- {_rounded(2 * self.error, 2 * self.error)}"
        return text + (" (a tie)" if self.tie else "")


def mean_of(values: np.ndarray, scale: float = 1.0, of_reference: bool = False) -> Estimate:
    """The mean of a number per image, each influencing it by itself.

    Args:
      values: [N], N > 0.
      scale: what all are multiplied with.
      of_reference: see `Estimate`.
    """
    values = scale * np.asarray(values, np.float64)
    return Estimate(float(values.mean()), values - values.mean(), of_reference)


def difference(a: Estimate, b: Estimate, paired: bool = True) -> Difference:
    """a - b with its standard error.

    Args:
      paired: whether sample i of both had the same noise and label, so that most of their errors are one; else they
        are independent. Errors that are of the reference images are of the same ones either way.

    Raises:
      UserError: paired sets of different sizes.
    """
    if not (paired := paired or (a.of_reference and b.of_reference)):
        return Difference(a.value - b.value, float(np.hypot(a.error, b.error)), paired)
    if len(a.influence) != len(b.influence):
        raise UserError(
            f"sets of {len(a.influence):,} and {len(b.influence):,} samples are not paired; paired sets have sample i"
            " of both from the same noise and label"
        )
    return Difference(a.value - b.value, standard_error(a.influence - b.influence), paired)


def standard_error(influence: np.ndarray) -> float:
    """std(u) / sqrt(N)."""
    return float(np.std(influence) / np.sqrt(len(influence)))


def with_error(value: float, error: float) -> str:
    """Such as `2.27 +- 0.03`: the value to the second digit of its standard error."""
    return f"{_rounded(value, error)} +- {_rounded(error, error)}"


def _rounded(value: float, error: float, sign: str = "") -> str:
    """To the place of the second digit of `error`, and to no less than a hundredth."""
    small = np.isfinite(error) and error > 0
    places = min(max(1 - int(np.floor(np.log10(error))), 2), 8) if small else 4
    return f"{value:{sign}.{places}f}"
