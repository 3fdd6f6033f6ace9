"""Diversity by all pairs."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics import distances
from flexidit_jax.metrics.diversity import diversity


@pytest.mark.parametrize("tile", [2000, 5])
def test_against_all_pairs(monkeypatch: pytest.MonkeyPatch, tile: int) -> None:
    monkeypatch.setattr(distances, "ROWS", tile)
    labels = np.array([0, 1, 2, 0, 1, 0, 0, 2, 1, 0, 1])  # classes of 5, 4 and 2
    features = np.random.default_rng(0).normal(size=(11, 6)) + 3 * labels[:, None]
    apart = {(i, j): np.linalg.norm(features[i] - features[j]) for i, j in combinations(range(11), 2)}
    means = [np.mean([d for (i, j), d in apart.items() if labels[i] == labels[j] == c]) for c in range(3)]
    found = diversity(features, labels)
    assert found.within.value == pytest.approx(np.mean(means))  # of classes, however many samples they have
    assert found.within.error == pytest.approx(np.std(means) / np.sqrt(3))
    unrelated = np.mean([d for (i, j), d in apart.items() if labels[i] != labels[j]])
    assert found.unrelated == pytest.approx(unrelated)
    assert found.relative == pytest.approx(np.mean(means) / unrelated)


def test_refusals() -> None:
    features = np.ones((4, 2))
    for labels, classes, said in [
        ([0, 0, 1, 1], 3, "class 2 has no sample, and diversity is that of two or more"),
        ([0, 0, 0, 1], None, "class 1 has 1 sample, and diversity is that of two or more"),
        ([5, 5, 5, 5], None, "diversity is averaged over classes, and the samples are of 1"),
        ([0, 0, 1], None, "diversity needs the class of every sample, got 3 for 4 samples"),
    ]:
        with pytest.raises(UserError) as caught:
            diversity(features, np.array(labels), classes)
        assert str(caught.value) == said
