"""Diversity: how far apart samples of one class are (arXiv 2502.20126, figure 15), on any features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics.distances import tiles
from flexidit_jax.metrics.estimate import Estimate, mean_of
from flexidit_jax.metrics.moments import check_finite
from flexidit_jax.metrics.score import Images, Score


@dataclass(frozen=True)
class Metric:
    """See `diversity`.

    Attributes:
      classes: how many there are; None for those that labels name.
    """

    reads, compares = ("pool",), ()
    numbers = ("diversity",)
    classes: int | None = None

    def check(self, samples: int, reference: int | None) -> None:
        """Any number will do; classes are looked at by `check_labels`."""

    def check_labels(self, labels: np.ndarray | None) -> None:
        """Refuses samples of which nobody says the class, or too few of one.

        Raises:
          UserError: they are; see `diversity`.
        """
        if labels is None:
            raise UserError("diversity needs the class of every sample, which arr_1 of a .npz file may hold")
        _members(labels, self.classes)

    def scores(self, samples: Images, reference: Images, features: str) -> list[Score]:
        """The one.

        Raises:
          UserError: no labels; and see `diversity`.
        """
        self.check_labels(samples.labels)
        found = diversity(samples.array("pool"), samples.labels, self.classes)
        how = f"{found.relative:.3f} of the distance of unrelated samples"
        return [Score("diversity", found.within.value, found.within.error, None, how)]


class Diversity(NamedTuple):
    """Mean distances of pairs.

    Attributes:
      within: of two samples of one class, averaged over classes; its influence is one a class.
      unrelated: of two samples of different classes.
    """

    within: Estimate
    unrelated: float

    @property
    def relative(self) -> float:
        """1: samples of a class differ as much as those of different classes do."""
        return self.within.value / self.unrelated


def diversity(features: np.ndarray, labels: np.ndarray, classes: int | None = None) -> Diversity:
    """Of features [N, D] and labels [N].

    Args:
      classes: how many there are, numbered from 0; None for those that labels name.

    Raises:
      UserError: a class with fewer than two samples, fewer than two classes, or features that are not finite.
    """
    if len(features) != len(labels):
        raise UserError(f"diversity needs the class of every sample, got {len(labels)} for {len(features)} samples")
    members = _members(labels, classes)
    check_finite(features)
    total, pairs = 0.0, 0
    for rows, columns, tile in tiles(features, features, "float64"):
        others = labels[rows, None] != labels[columns]
        total, pairs = total + np.sqrt(tile[others]).sum(), pairs + others.sum()
    return Diversity(mean_of(np.array([_mean_of_pairs(features[rows]) for rows in members])), float(total / pairs))


def _members(labels: np.ndarray, classes: int | None) -> list[np.ndarray]:
    """Numbers of the samples of every class."""
    known = np.arange(classes) if classes else np.unique(labels)
    if len(known) < 2:
        raise UserError(f"diversity is averaged over classes, and the samples are of {len(known)}")
    members = [np.flatnonzero(labels == label) for label in known]
    for label, rows in zip(known, members, strict=True):
        if len(rows) < 2:
            raise UserError(f"class {label} has {len(rows) or 'no'} sample, and diversity is that of two or more")
    return members


def _mean_of_pairs(rows: np.ndarray) -> float:
    """The mean distance of two different rows."""
    rows = np.asarray(rows, np.float64)
    total = sum(np.linalg.norm(rows[i + 1 :] - row, axis=1).sum() for i, row in enumerate(rows))
    return float(total / (len(rows) * (len(rows) - 1) / 2))
