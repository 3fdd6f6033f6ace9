"""One judge of samples for `evaluate` and `report`: same features, same reference, same words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.evaluation.reading import Images, Reading
from flexidit_jax.metrics.estimate import Estimate, mean_of
from flexidit_jax.metrics.frechet import frechet
from flexidit_jax.metrics.moments import Moments
from flexidit_jax.metrics.nearest import mean_nearest_distance


@dataclass(frozen=True)
class Score:
    """Quality of a set of samples.

    Attributes:
      distance: the Frechet distance to the training images, with the influence of every sample; of captions, of those
        that are trained on.
      right: share of the same samples in which the classifier finds all that was asked for, the label or every word of
        the caption.
      nearest: mean distance to the nearest training image, of captions from the parts of images to those of training.
      unseen: `right` of captions that are never trained on; None where nothing is.
    """

    distance: Estimate
    right: Estimate
    nearest: float
    unseen: Estimate | None = None

    @property
    def fd(self) -> float:
        """The Frechet distance alone."""
        return self.distance.value

    @property
    def accuracy(self) -> float:
        """`right` alone."""
        return self.right.value

    def record(self) -> dict[str, float]:
        """JSON-ready; `fd_error` is the standard error of what drawing the samples adds to `fd`."""
        distance = {"fd": self.fd, "fd_error": self.distance.error}
        unseen = {} if self.unseen is None else {"accuracy_unseen": self.unseen.value}
        return {**distance, "accuracy": self.accuracy, **unseen, "nearest": self.nearest}


class Judge:
    """Fits the features on a training set and scores samples against it; made before any sample is drawn.

    Args:
      dataset: source of the reference images.
      codec: turns data in [-1, 1] into the uint8 that samples are.
      features: its name (a module of `metrics/features`) and keywords.

    Attributes:
      training, held_out: the images of the two parts of the dataset, of captions that are trained on.
      examples, held_out_examples: parts of such images with their labels, which the classifier is fitted on and not.

    Raises:
      UserError: the dataset's `source` or `held_out` has nothing, or there are no such features, or they find no
        labels.
    """

    def __init__(self, dataset: Any, codec: Any, features: Mapping[str, Any]) -> None:
        self.reading = Reading(dataset, codec)
        self._features = build.part("flexidit_jax.metrics.features", "Features", features, "evaluate.features")
        if not hasattr(self._features, "classify"):
            raise UserError(f"evaluate.features: {features['name']} finds no labels; mlp_classifier does")
        training, held_out = dataset.source(), self.reading.known(dataset.held_out())  # both, before either is decoded
        self.training, self.held_out = self.reading.images(training), self.reading.images(held_out)
        self.examples = self.reading.examples(False, training, self.training)
        self.held_out_examples = self.reading.examples(True, held_out, self.held_out)
        self._features.fit(*self.examples)
        self._known = self._pool(self.training)
        self._reference = Moments.of(self._known).gaussian

    def score(self, images: Images, asked: Sequence[Any]) -> Score:
        """Scores N uint8 samples drawn for labels or captions."""
        wanted = self.reading.wanted(asked)
        found = self._features.classify(self._parts(images)).reshape(wanted.shape)
        right, seen = (found == wanted).all(1), self.reading.seen(asked)
        return Score(
            distance=self._distance(self._pool(images)[seen]),
            right=mean_of(right[seen]),
            nearest=self.nearest(images),
            unseen=None if seen.all() else mean_of(right[~seen]),
        )

    def nearest(self, images: Images) -> float:
        """Mean distance of uint8 images, part by part, to the nearest one that is trained on."""
        return mean_nearest_distance(self._parts(images), self.examples.images)

    def fd(self, images: Images) -> float:
        """Frechet distance of uint8 images to the training images."""
        return self.distance(images).value

    def distance(self, images: Images) -> Estimate:
        """The same with the influence of every image."""
        return self._distance(self._pool(images))

    def floor(self, n: int, draws: int = 5, seed: int = 0) -> float:
        """What sampling error alone costs: mean fd of n training images drawn with replacement."""
        rng = np.random.default_rng(seed)
        drawn = (rng.integers(0, len(self._known), n) for _ in range(draws))
        return float(np.mean([self._distance(self._known[rows]).value for rows in drawn]))

    def classifier_accuracy(self) -> float:
        """Accuracy of the classifier on held-out parts."""
        images, labels = self.held_out_examples
        return float(np.mean(self._features.classify(images) == labels))

    def _parts(self, images: Images) -> np.ndarray:
        """uint8 [N P, h, w, C]."""
        parts = self.reading.parts(images)
        return parts.reshape(-1, *parts.shape[2:])

    def _pool(self, images: Images) -> np.ndarray:
        """[N, P D]: the features of the parts of an image, one after the other."""
        return self._features.extract(self._parts(images))["pool"].reshape(len(images), -1)

    def _distance(self, features: np.ndarray) -> Estimate:
        return frechet(features, Moments.of(features).gaussian, self._reference)
