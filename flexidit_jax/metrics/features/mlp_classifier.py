"""Features of a small classifier fitted on the training images themselves: seconds on a laptop."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from flexidit_jax.common.errors import UserError


class Features:
    """scikit-learn's `MLPClassifier` on pixels in [-1, 1]; features are its last hidden layer.

    Args:
      hidden: widths of the hidden layers.
      alpha: L2 penalty.
      seed: of its initialisation and batches.
    """

    def __init__(self, hidden: Sequence[int] = (128, 64), alpha: float = 1e-3, seed: int = 0) -> None:
        self._classifier = MLPClassifier(tuple(hidden), alpha=alpha, random_state=seed)

    def fit(self, images: np.ndarray, labels: np.ndarray) -> None:
        """Fits on uint8 images [N, H, W, C] and their labels [N]."""
        # these products are too small for BLAS threads, which spin: 1 s becomes 6 s or more on busy cores
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._classifier.fit(_flat(images), labels)

    def extract(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """uint8 [N, H, W, C] -> `pool` [N, D], activations of the last hidden layer."""
        if not hasattr(self._classifier, "coefs_"):
            raise UserError("the classifier is not fitted; call fit(images, labels) first")
        hidden = _flat(images)
        for weights, bias in zip(self._classifier.coefs_[:-1], self._classifier.intercepts_[:-1], strict=True):
            hidden = np.maximum(hidden @ weights + bias, 0)
        return {"pool": hidden}

    def classify(self, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, C] -> predicted labels [N]."""
        return self._classifier.predict(_flat(images))


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1) / 127.5 - 1
