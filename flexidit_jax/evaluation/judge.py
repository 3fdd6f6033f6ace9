"""One judge of samples for `evaluate` and `report`: same features, same reference, same labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flexidit_jax.codecs.latents import latents_of, stacked
from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics.estimate import Estimate
from flexidit_jax.metrics.frechet import frechet
from flexidit_jax.metrics.moments import Moments
from flexidit_jax.metrics.nearest import mean_nearest_distance


@dataclass(frozen=True)
class Score:
    """Quality of a set of samples.

    Attributes:
      distance: the Frechet distance to the training images, with the influence of every sample.
      accuracy: share of samples in which the classifier finds the label asked for.
      nearest: mean distance to the nearest training image.
    """

    distance: Estimate
    accuracy: float
    nearest: float

    @property
    def fd(self) -> float:
        """The Frechet distance alone."""
        return self.distance.value

    def record(self) -> dict[str, float]:
        """JSON-ready; `fd_error` is the standard error of what drawing the samples adds to `fd`."""
        distance = {"fd": self.fd, "fd_error": self.distance.error}
        return {**distance, "accuracy": self.accuracy, "nearest": self.nearest}


class Judge:
    """Fits the features on a training set and scores samples against it; made before any sample is drawn.

    Args:
      dataset: source of the reference images.
      codec: turns data in [-1, 1] into the uint8 that samples are.
      features: its name (a module of `metrics/features`) and keywords.

    Raises:
      UserError: the dataset's `source` or `held_out` has nothing, or there are no such features, or they find no
        labels.
    """

    def __init__(self, dataset: Any, codec: Any, features: Mapping[str, Any]) -> None:
        self._codec = codec
        self._features = build.part("flexidit_jax.metrics.features", "Features", features, "evaluate.features")
        if not hasattr(self._features, "classify"):
            raise UserError(f"evaluate.features: {features['name']} finds no labels; mlp_classifier does")
        training, held_out = dataset.source(), dataset.held_out()  # both, before either is decoded
        self.training, self.labels = self._images(training)
        self.held_out, self.held_out_labels = self._images(held_out)
        self._features.fit(self.training, self.labels)
        self._reference = Moments.of(self._features.extract(self.training)["pool"]).gaussian

    def score(self, images: np.ndarray, labels: np.ndarray) -> Score:
        """Scores uint8 samples [N, H, W, C] drawn for `labels` [N]."""
        return Score(
            distance=self.distance(images),
            accuracy=float(np.mean(self._features.classify(images) == labels)),
            nearest=self.nearest(images),
        )

    def nearest(self, images: np.ndarray) -> float:
        """Mean distance of uint8 images to their nearest training image."""
        return mean_nearest_distance(images, self.training)

    def fd(self, images: np.ndarray) -> float:
        """Frechet distance of uint8 images to the training images."""
        return self.distance(images).value

    def distance(self, images: np.ndarray) -> Estimate:
        """The same with the influence of every image."""
        features = self._features.extract(images)["pool"]
        return frechet(features, Moments.of(features).gaussian, self._reference)

    def floor(self, n: int, draws: int = 5, seed: int = 0) -> float:
        """What sampling error alone costs: mean fd of n training images drawn with replacement."""
        rng = np.random.default_rng(seed)
        return float(np.mean([self.fd(self.training[rng.integers(0, len(self.training), n)]) for _ in range(draws)]))

    def classifier_accuracy(self) -> float:
        """Accuracy of the classifier on the held-out images."""
        return float(np.mean(self._features.classify(self.held_out) == self.held_out_labels))

    def _images(self, records: Sequence[Mapping[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        batch = stacked(records)
        return self._codec.decode(latents_of(self._codec, batch))[:, 0], batch["label"]
