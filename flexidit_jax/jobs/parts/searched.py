"""The `search` section, and what its measurements say beside weak-first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Search:
    """The `search` section; solver, steps and the rest of the words are those of `sample`.

    Attributes:
      budgets: shares of the FLOPs of running every call powerful.
      max_segments: the most stretches a schedule may have.
      guidance: scales to choose from for every schedule, by the Frechet distance of `scale_samples`
        samples of a seed that is not scored; by default that of `sample` alone.
      scale_samples: see `guidance`.
      samples: scored for every schedule and seed; by default as many as `evaluate` draws.
      seeds: of the scored samples; two or more tell how far the scores can be trusted.
      records: of the training data, on which the gap is measured.
      weight: "moved" minimises the error that a gap leaves in the sample (`sampling.gaps`), "none" the gap itself.
    """

    budgets: Sequence[float]
    max_segments: int = 3
    guidance: Sequence[float] | None = None
    scale_samples: int = 500
    samples: int | None = None
    seeds: Sequence[int] = (0, 1)
    records: int = 256
    weight: str = "moved"

    def __post_init__(self) -> None:
        build.positive("search", max_segments=self.max_segments, records=self.records)
        build.positive("search", scale_samples=self.scale_samples, samples=self.samples or 1)
        for key in ("budgets", "guidance", "seeds"):
            values = getattr(self, key)
            listed = isinstance(values, Sequence) and not isinstance(values, str)
            if not listed or not values or len(set(values)) < len(values):
                raise UserError(f"search.{key} must be a list of different numbers, got {values!r}")
        if not all(isinstance(seed, int) and 0 <= seed < 2**31 - 1 for seed in self.seeds):
            raise UserError(f"search.seeds must lie in 0..2^31-2, got {self.seeds!r}")
        for budget in self.budgets:
            if not 0 < budget <= 1:
                raise UserError(f"search.budgets must lie in (0, 1], got {budget!r}")
        if self.weight not in ("moved", "none"):
            raise UserError(f"search.weight must be one of moved, none, got {self.weight!r}")


def build_search(section: Mapping[str, Any], sample: Mapping[str, Any], samples: int | None) -> Search:
    """The section, completed by those of `sample` and `evaluate` (its samples; None without one).

    Raises:
      UserError: a key or value that will not do, or scales that nothing can choose from.
    """
    own = {key: value for key, value in section.items() if value is not None}
    search = build.call(Search, {"samples": samples, "guidance": (sample.get("guidance", 1.5),), **own}, "search")
    if len(search.guidance) > 1 and samples is None:
        raise UserError("config key 'evaluate' is missing; search.guidance chooses its scale by scores")
    return search


def noise(pairs: Sequence[tuple[Row, Row]]) -> float | None:
    """By how much the FD of a searched row less that of weak-first varies between seeds.

    Both draw the same noise, so this is far less than an FD varies. Standard deviation, pooled over the pairs that
    differ; None with one seed, or where none differ.
    """
    differences = np.array([np.subtract(found["fd"], first["fd"]) for found, first in pairs if not same(found, first)])
    if differences.size == 0 or differences.shape[1] < 2:
        return None
    return float(np.sqrt(differences.var(axis=1, ddof=1).mean()))


def margin(deviation: float, seeds: int) -> float:
    """How far two means over the seeds must be apart to count: three standard errors of their difference."""
    return 3 * deviation / np.sqrt(seeds)


def same(found: Row, first: Row) -> bool:
    """Whether two rows drew the same samples."""
    return (found["schedule"], found["guidance"]) == (first["schedule"], first["guidance"])


def verdict(found: Row, first: Row, deviation: float | None) -> str:
    """What the search earned over weak-first: `same`, `better`, `worse`, `within noise` or `unknown`."""
    if same(found, first):
        return "same"
    if deviation is None:
        return "unknown"
    difference = np.mean(found["fd"]) - np.mean(first["fd"])
    if abs(difference) <= margin(deviation, len(found["fd"])):
        return "within noise"
    return "better" if difference < 0 else "worse"
