"""Features of the small classifier."""

from __future__ import annotations

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics.features.mlp_classifier import Features


@pytest.fixture(scope="module")
def toy() -> tuple[np.ndarray, np.ndarray]:
    """Three classes, told apart by which row is bright."""
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = rng.integers(0, 60, (90, 3, 3, 1), dtype=np.uint8)
    images[np.arange(90), labels] += 180
    return images, labels


@pytest.fixture(scope="module")
def fitted(toy: tuple[np.ndarray, np.ndarray]) -> Features:
    features = Features(hidden=(16, 6), seed=0)
    features.fit(*toy)
    return features


def test_it_classifies(fitted: Features, toy: tuple[np.ndarray, np.ndarray]) -> None:
    assert (fitted.classify(toy[0]) == toy[1]).mean() > 0.95


def test_features_are_the_last_hidden_layer(fitted: Features, toy: tuple[np.ndarray, np.ndarray]) -> None:
    """What remains is one linear layer and a softmax."""
    hidden = fitted.extract(toy[0])["pool"]
    assert hidden.shape == (90, 6)
    inner = fitted._classifier
    logits = hidden @ inner.coefs_[-1] + inner.intercepts_[-1]
    odds = np.exp(logits - logits.max(1, keepdims=True))
    pixels = toy[0].reshape(90, -1) / 127.5 - 1
    np.testing.assert_allclose(odds / odds.sum(1, keepdims=True), inner.predict_proba(pixels), atol=1e-9)


def test_a_seed_is_a_classifier(fitted: Features, toy: tuple[np.ndarray, np.ndarray]) -> None:
    twin, other = Features(hidden=(16, 6), seed=0), Features(hidden=(16, 6), seed=1)
    for features in (twin, other):
        features.fit(*toy)
    own, of_twin, of_other = (features.extract(toy[0])["pool"] for features in (fitted, twin, other))
    np.testing.assert_array_equal(of_twin, own)
    assert np.abs(of_other - own).max() > 0.1


def test_unfitted_is_refused(toy: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(UserError) as caught:
        Features().extract(toy[0])
    assert str(caught.value) == "the classifier is not fitted; call fit(images, labels) first"
