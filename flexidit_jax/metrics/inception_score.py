"""Inception score: how sure a classifier is of every sample, and how evenly it names all classes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics.distances import cut
from flexidit_jax.metrics.estimate import Estimate
from flexidit_jax.metrics.moments import check_finite

#: samples of which probabilities are computed at a time
TILE = 5000


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
    if count < parts:
        raise UserError(f"an Inception score over {parts} parts needs at least {parts} samples, got {count}")
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


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(1, keepdims=True))
