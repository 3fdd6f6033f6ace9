"""What every metric is handed, features of images, and what it gives back, numbers with their errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.metrics.estimate import Estimate, with_error
from flexidit_jax.metrics.moments import BLOCK, Gaussian, moments_of

_PACKAGE = "flexidit_jax.metrics"


@dataclass(frozen=True)
class Images:
    """What is known of a set of images.

    Attributes:
      features: arrays [N, D] by kind: `pool`, `spatial`, `logits`, and `prompts`, the embeddings of captions. They may
        lie in a file (`metrics.kept_features`).
      fitted: means and covariances by kind, where there are no features, or they are of other images than these.
      labels: [N] classes.
    """

    features: Mapping[str, np.ndarray] = field(default_factory=dict)
    fitted: Mapping[str, Gaussian] = field(default_factory=dict)
    labels: np.ndarray | None = None

    def array(self, kind: str) -> np.ndarray:
        """Features of a kind.

        Raises:
          UserError: there are none.
        """
        if kind not in self.features:
            raise UserError(f"there are no features {kind!r} of these images; there are {_listed(self.features)}")
        return self.features[kind]

    def gaussian(self, kind: str) -> Gaussian:
        """What is fitted to features of a kind: as it was given, else to all that there are.

        Raises:
          UserError: there are none.
        """
        if kind in self.fitted:
            return self.fitted[kind]
        if kind not in self._made:
            self._made[kind] = gaussian_of(self.array(kind))
        return self._made[kind]

    @cached_property
    def _made(self) -> dict[str, Gaussian]:
        return {}


@dataclass(frozen=True)
class Score:
    """A number beside what is known of its error.

    Attributes:
      metric: its name, such as "fid".
      value: the number.
      error: its standard error; None where there is none.
      floor: what a perfect model would score with as many samples; None where that is not known, or is no question.
      how: what else it depends on, such as "k=3".
      estimate: with the influence of every sample, for `metrics.estimate.difference`; None where there is none.
    """

    metric: str
    value: float
    error: float | None = None
    floor: float | None = None
    how: str = ""
    estimate: Estimate | None = field(default=None, repr=False, compare=False)

    @classmethod
    def of(cls, metric: str, found: Estimate, floor: float | None = None, how: str = "") -> Score:
        """Of an estimate, which has its error."""
        return cls(metric, found.value, found.error, floor, how, found)

    def record(self) -> dict[str, float | str | None]:
        """JSON-ready, without influences."""
        return {"value": self.value, "error": self.error, "floor": self.floor, "how": self.how}

    def cell(self) -> str:
        """The number as a table shows it."""
        text = f"{self.value:.4g}" if self.error is None else with_error(self.value, self.error)
        return text + (f" (floor {self.floor:.3g})" if self.floor is not None else "")

    def __str__(self) -> str:
        return f"{self.metric} {self.cell()}" + (f", {self.how}" if self.how else "")


def metric_of(section: Mapping[str, Any], where: str) -> Any:
    """The metric that a section of a config asks for.

    Args:
      section: the name of a metric (a module of `metrics`) or of a number that it makes, and its keywords.
      where: of the section, for messages.

    Raises:
      UserError: no such metric, or a key that it does not take.
    """
    own = build.names(_PACKAGE, "Metric")
    of_numbers = {number: name for name in own for number in build.find(_PACKAGE, name, "Metric").numbers}
    asked = str(section.get("name"))
    if asked not in {*own, *of_numbers}:
        raise UserError(f"no metric {asked!r}{nearest(asked, {*own, *of_numbers})}")
    return build.part(_PACKAGE, "Metric", {**section, "name": of_numbers.get(asked, asked)}, where)


def gaussian_of(features: np.ndarray, numbers: np.ndarray | None = None) -> Gaussian:
    """Fitted to features [N, D], wherever they lie, or to those with these numbers.

    Raises:
      UserError: fewer than two, or some that are not finite.
    """
    count = len(features) if numbers is None else len(numbers)
    blocks = (slice(begin, begin + BLOCK) for begin in range(0, count, BLOCK))
    return moments_of(features[rows if numbers is None else numbers[rows]] for rows in blocks).gaussian


def _listed(features: Mapping[str, np.ndarray]) -> str:
    return ", ".join(features) or "none"
