"""Inception score: how sure a classifier is of every sample, and how evenly it names all classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.notes import note
from flexidit_jax.metrics.distances import cut
from flexidit_jax.metrics.estimate import Estimate
from flexidit_jax.metrics.moments import check_finite
from flexidit_jax.metrics.score import Images, Score

#: samples of which probabilities are computed at a time
TILE = 5000


@dataclass(frozen=True)
class Metric:
    """The mean over parts; see `inception_score`.

    Attributes:
      chunk: consecutive samples a part, as ADM has it; None: `parts` of samples shuffled by `seed`, as torch-fidelity.
      parts, seed: see `shuffled`.
    """

    reads, compares = ("logits",), ()
    numbers = ("is",)
    chunk: int | None = 5000
    parts: int = 10
    seed: int = 2020

    def __post_init__(self) -> None:
        build.positive("inception_score", parts=self.parts, **({} if self.chunk is None else {"chunk": self.chunk}))

    def check(self, samples: int, reference: int | None) -> None:
        """Refuses too few samples.

        Raises:
          UserError: they are.
        """
        if self.chunk is None:
            _check_parts(samples, self.parts)

    def scores(self, samples: Images, reference: Images, features: str) -> list[Score]:
        """The one.

        Raises:
          UserError: see `inception_score`.
        """
        logits = samples.array("logits")
        if self.chunk is None:
            parts, how = shuffled(len(logits), self.parts, self.seed), f"{self.parts} shuffled parts"
        else:
            parts, how = consecutive(len(logits), self.chunk), f"parts of {self.chunk:,} in order"
            if len(parts) > 1 and _sorted(samples.labels):
                how = f"MEANS NOTHING, since the samples are sorted by class: {how}"
                note("an Inception score of samples sorted by class means nothing; chunk=None shuffles them")
        found, deviation = inception_score(logits, parts)
        return [Score.of("is", found, how=f"{how}, which deviate by {deviation:.2g}")]


def consecutive(count: int, size: int = 5000) -> list[np.ndarray]:
    """ADM's parts: samples in their order, `size` a part; a shorter last one counts as much as any.

    Samples sorted by class then have a hundred classes a part, and a score that means nothing.
    """
    return [np.arange(part.start, part.stop) for part in cut(count, size)]


def shuffled(count: int, parts: int = 10, seed: int = 2020) -> list[np.ndarray]:
    """torch-fidelity's parts: samples shuffled, in as many equal parts.

    Raises:
      UserError: fewer samples than parts.
    """
    _check_parts(count, parts)
    order = np.random.RandomState(seed).permutation(count)
    return [order[i * count // parts : (i + 1) * count // parts] for i in range(parts)]


def inception_score(logits: np.ndarray, parts: Sequence[np.ndarray]) -> tuple[Estimate, float]:
    """exp(mean_i KL(p_i | mean p)) of every part; its mean over the parts, and its standard deviation (ddof 0).

    Args:
      logits: [N, classes], without bias.
      parts: numbers of the samples of each; see `consecutive` and `shuffled`.

    Raises:
      UserError: no samples, or logits that are not finite.
    """
    if not parts:
        raise UserError("there are no samples for an Inception score")
    for rows in cut(len(logits), TILE):
        check_finite(logits[rows], rows.start)
    influence, scores = np.zeros(len(logits)), []
    for part in parts:
        certain, mean = np.empty(len(part)), np.zeros(logits.shape[1])
        for rows in cut(len(part), TILE):
            log_p = _log_softmax(logits[part[rows]])
            p = np.exp(log_p)
            certain[rows] = (p * log_p).sum(1)
            mean += p.sum(0) / len(part)
        log_mean = np.log(np.where(mean > 0, mean, 1))
        for rows in cut(len(part), TILE):
            certain[rows] -= np.exp(_log_softmax(logits[part[rows]])) @ log_mean
        scores.append(np.exp(certain.mean()))
        # mean p moves with a sample too, but a divergence is least at its own mean, so that this adds nothing
        share = len(logits) / (len(part) * len(parts))
        influence[part] = share * scores[-1] * (certain - certain.mean())
    return Estimate(float(np.mean(scores)), influence), float(np.std(scores))


def _sorted(labels: np.ndarray | None) -> bool:
    """Whether classes [N] come one after the other."""
    return labels is not None and labels[0] != labels[-1] and bool((labels[1:] >= labels[:-1]).all())


def _check_parts(count: int, parts: int) -> None:
    if count < parts:
        raise UserError(f"an Inception score over {parts} parts needs at least {parts} samples, got {count}")


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))
