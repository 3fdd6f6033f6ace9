"""What is read off images: labels of whole ones, all words of those of captions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flexidit_jax.codecs.identity import Codec
from flexidit_jax.evaluation.judge import Judge
from flexidit_jax.evaluation.reading import Reading, joined
from flexidit_jax.metrics.features.mlp_classifier import Features
from flexidit_jax.metrics.frechet import frechet_distance
from flexidit_jax.metrics.moments import Moments


class Pairs:
    """Two cells beside or above one another, each bright at the top ("t") or at the bottom ("b")."""

    def source(self) -> list[dict[str, Any]]:
        return [scene(caption, seed) for seed in range(12) for caption in ("t|t", "t/t", "b|t", "b/t", "t|b", "t/b")]

    def held_out(self) -> list[dict[str, Any]]:
        return [scene(caption, 100) for caption in ("b|b", "b/b", "t|b", "b/t")]

    def examples(self, held_out: bool) -> list[dict[str, Any]]:
        return [
            {"x": cell(kind, seed + 50 * held_out)[None], "label": np.int32(number)}
            for seed in range(20)
            for number, kind in enumerate("tb")
        ]

    def cells(self, image: np.ndarray) -> np.ndarray:
        return np.stack(np.split(image, 2, int(image.shape[1] == 8)))

    def wanted(self, caption: str) -> tuple[int, int]:
        return "tb".index(caption[0]), "tb".index(caption[2])

    def seen(self, caption: str) -> bool:
        return caption[::2] != "bb"


def cell(kind: str, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).uniform(-1, -0.6, (4, 4, 1)).astype(np.float32)
    x[slice(0, 2) if kind == "t" else slice(2, 4)] += 1.5
    return x


def scene(caption: str, seed: int) -> dict[str, Any]:
    cells = cell(caption[0], seed), cell(caption[2], seed + 1)
    return {"x": np.concatenate(cells, int(caption[1] == "|"))[None], "text": caption}


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge(Pairs(), Codec(), {"name": "mlp_classifier", "hidden": (8, 4)})


def drawn(*captions: str) -> list[np.ndarray]:
    return list(Reading(Pairs(), Codec()).images([scene(caption, 200 + i) for i, caption in enumerate(captions)]))


def test_images_of_two_sizes_keep_their_order() -> None:
    reading, records = Reading(Pairs(), Codec()), Pairs().source()[:5]
    images = reading.images(records)
    assert [image.shape for image in images] == [(4, 8, 1), (8, 4, 1), (4, 8, 1), (8, 4, 1), (4, 8, 1)]
    for image, record in zip(images, records):
        np.testing.assert_array_equal(image, Codec().decode(record["x"][None])[0, 0])
    assert reading.images(records[:1]).shape == (1, 4, 8, 1)
    whole = joined([reading.images(records[::2]), reading.images(records[:1])])
    assert whole.shape == (4, 4, 8, 1)
    mixed = joined([reading.images(records[::2]), reading.images(records[1:2])])
    assert [image.shape for image in mixed] == [(4, 8, 1)] * 3 + [(8, 4, 1)]


def test_all_words_are_right_or_none(judge: Judge) -> None:
    """Of captions that are trained on, and apart from them of those that are not."""
    captions = ["t|t", "b/t", "t|b", "t/b", "b|b", "b/b"]
    images = drawn(*captions)
    right = judge.score(images, captions)
    assert (right.accuracy, right.unseen.value) == (1, 1)
    assert right.fd == judge.fd(images[:4]) and right.nearest == judge.nearest(images)
    one = judge.score([*images[:5], images[3]], ["t|b", *captions[1:]])
    assert one.accuracy == pytest.approx(3 / 4) and one.unseen.value == pytest.approx(1 / 2)
    assert len(one.right.influence) == 4 and len(one.unseen.influence) == 2 and len(one.distance.influence) == 4
    assert one.record()["accuracy_unseen"] == 0.5 and one.record()["accuracy"] == 0.75
    seen = judge.score(images[:4], captions[:4])
    assert seen.unseen is None and "accuracy_unseen" not in seen.record()


def test_features_are_those_of_both_cells(judge: Judge) -> None:
    """So that it matters which cells stand together: the same cells in other pairs are far from one another."""
    images = drawn("t|t", "b/t", "t|b")
    features = Features((8, 4))
    features.fit(*judge.examples)
    pools = [features.extract(Pairs().cells(image))["pool"].ravel() for image in [*judge.training, *images]]
    reference, own = Moments.of(np.stack(pools[:72])).gaussian, Moments.of(np.stack(pools[72:])).gaussian
    assert len(own.mean) == 8
    assert judge.fd(images) == pytest.approx(frechet_distance(own, reference), rel=1e-6)
    assert judge.fd(judge.training) < 1e-3 < 10 * judge.fd(drawn(*["t|t", "b|b"] * 20))


def test_the_nearest_is_a_part_of_training(judge: Judge) -> None:
    known = np.concatenate([judge.examples.images[0], judge.examples.images[1]], 1)
    assert judge.nearest([known]) < 1e-6 < judge.nearest(drawn("t|t"))


def test_the_classifier_is_judged_on_held_out_parts(judge: Judge) -> None:
    assert judge.classifier_accuracy() == 1 and len(judge.held_out_examples.labels) == 40
    assert not np.array_equal(judge.held_out_examples.images, judge.examples.images)
    assert len(judge.held_out) == 2 and len(judge.training) == 72


def test_a_report_says_what_captions_there_are() -> None:
    captions = ["t|t", "b|b", "t|t", "b/b"]
    assert Reading(Pairs(), Codec()).said(captions) == {"captions": {"count": 3, "unseen": 2, "parts": 2}}
    assert Reading(object(), Codec()).said([0, 1]) == {}


def test_labels_are_read_whole() -> None:
    reading, images = Reading(object(), Codec()), np.zeros((3, 8, 8, 1), np.uint8)
    assert reading.parts(images).shape == (3, 1, 8, 8, 1)
    np.testing.assert_array_equal(reading.wanted(np.array([4, 2])), [[4], [2]])
    assert reading.seen([4, 2]).all()
