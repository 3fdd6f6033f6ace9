"""The judge of samples: what they are compared with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flexidit_jax.codecs.identity import Codec
from flexidit_jax.common.errors import UserError
from flexidit_jax.evaluation.judge import Judge
from flexidit_jax.metrics.features.mlp_classifier import Features
from flexidit_jax.metrics.frechet import frechet, frechet_distance
from flexidit_jax.metrics.moments import Moments

CLASSES = 3


class Dataset:
    """Training images dark where held-out ones are bright."""

    def source(self) -> list[dict[str, np.ndarray]]:
        return self._records(60, -0.4, 0)

    def held_out(self) -> list[dict[str, np.ndarray]]:
        return self._records(30, 0.4, 1)

    def _records(self, count: int, light: float, seed: int) -> list[dict[str, np.ndarray]]:
        x = light + 0.3 * np.random.default_rng(seed).normal(size=(count, 1, 4, 4, 1)).astype(np.float32)
        x[np.arange(count), 0, np.arange(count) % CLASSES] += 0.4  # a row brighter than the others
        return [{"x": image, "label": np.int32(i % CLASSES)} for i, image in enumerate(x)]


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(Dataset(), Codec(), {"name": "mlp_classifier", "hidden": (8, 4)})


def test_the_distance_is_that_to_the_training_images(judge: Judge) -> None:
    features = Features((8, 4))
    features.fit(*judge.examples)
    training, held_out = (
        Moments.of(features.extract(images)["pool"]).gaussian for images in (judge.training, judge.held_out)
    )
    apart = frechet_distance(held_out, training)
    assert apart > 0.01
    assert judge.fd(judge.held_out) == pytest.approx(apart, rel=1e-6)
    assert abs(judge.fd(judge.training)) < 1e-4 * apart
    score = judge.score(judge.held_out, judge.held_out_examples.labels)
    assert score.fd == judge.fd(judge.held_out)
    assert len(score.distance.influence) == 30
    assert score.record() == {
        "fd": score.fd,
        "fd_error": score.distance.error,
        "accuracy": score.accuracy,
        "nearest": score.nearest,
    }
    expected = frechet(features.extract(judge.held_out)["pool"], held_out, training)
    assert score.distance.error == pytest.approx(expected.error, rel=1e-6)


def test_the_nearest_image_is_one_of_training(judge: Judge) -> None:
    assert judge.nearest(judge.training[:5]) < 1e-6 < 1 < judge.nearest(judge.held_out)


def test_images_are_those_of_their_part(judge: Judge) -> None:
    assert (len(judge.training), len(judge.held_out)) == (60, 30)
    assert judge.training.mean() < 127 < judge.held_out.mean()
    np.testing.assert_array_equal(judge.held_out_examples.labels, np.arange(30) % CLASSES)


def test_features_that_find_no_labels_are_refused() -> None:
    weights = Path(__file__).parents[1] / "golden" / "dinov2_tiny.safetensors"
    with pytest.raises(UserError) as caught:
        Judge(Dataset(), Codec(), {"name": "dinov2", "path": str(weights)})
    assert str(caught.value) == "evaluate.features: dinov2 finds no labels; mlp_classifier does"
