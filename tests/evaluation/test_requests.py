"""What images are asked for: classes that depend on seed and number alone; captions of several sizes."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import jax
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.codecs.identity import Codec
from flexidit_jax.common.errors import UserError
from flexidit_jax.evaluation.requests import Requests, balanced_labels, labels_of


def test_classes_depend_on_seed_and_number_alone() -> None:
    numbers = np.arange(5000)
    labels = labels_of("uniform", 0, numbers, 10)
    np.testing.assert_array_equal(labels_of("uniform", 0, numbers[[4000, 7]], 10), labels[[4000, 7]])
    assert (labels_of("uniform", 1, numbers, 10) == labels).mean() == pytest.approx(0.1, abs=0.02)
    counts = np.bincount(labels, minlength=10)
    assert len(counts) == 10
    assert 0 < np.abs(counts - 500).max() < 5 * np.sqrt(5000 * 0.1 * 0.9)


def test_no_draw_of_noise_tells_the_class() -> None:
    """Noise of an image comes from the key of (seed, number, draw): 0 is x_T, k + 1 that of step k."""

    @jax.jit
    @jax.vmap
    def one(number: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(3), number)
        return jax.vmap(lambda draw: jax.random.randint(jax.random.fold_in(key, draw), (), 0, 10))(np.arange(1001))

    labels = labels_of("uniform", 3, np.arange(300), 10)
    shares = (np.asarray(one(np.arange(300))) == labels[:, None]).mean(0)  # a tenth by chance
    assert shares.shape == (1001,) and shares.max() < 0.2


def test_balanced_classes_are_equally_many() -> None:
    numbers = np.arange(25)
    np.testing.assert_array_equal(np.bincount(labels_of("balanced", 0, numbers, 10)), [3] * 5 + [2] * 5)
    np.testing.assert_array_equal(
        labels_of("balanced", 0, numbers[13:], 10), labels_of("balanced", 9, numbers, 10)[13:]
    )


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_cannot_be_is_refused(seed: int) -> None:
    with pytest.raises(UserError, match=rf"seed must lie in 0..2\^32-1, got {seed}$"):
        labels_of("uniform", seed, np.arange(3), 10)


def test_balanced_labels_take_turns() -> None:
    np.testing.assert_array_equal(balanced_labels(7, 3), [0, 1, 2, 0, 1, 2, 0])


CAPTIONS = ["a red apple", "two dogs play", "rain", "a tall tree", "snow"]
SIZES = {caption: (1, 16, 8, 4) if caption.startswith("a ") else (1, 8, 16, 4) for caption in CAPTIONS}
CAPTIONED = SimpleNamespace(captions=lambda count: CAPTIONS[:count], size=SIZES.get)


@pytest.fixture(scope="module")
def captioned(texts: fd.FlexiDiT) -> fd.FlexiDiT:
    return dataclasses.replace(texts, codec=Codec())


def test_images_of_captions_have_their_size_and_their_noise(captioned: fd.FlexiDiT) -> None:
    """Within the rows that are drawn at once numbers run through one size, then through the other."""
    requests = Requests.of(captioned, CAPTIONED, 5)
    assert requests.asked == CAPTIONS
    spec, taken = fd.SampleSpec(steps=2, guidance=1.0, solver="ddim", seed=3), []
    images = requests.draw(captioned, spec, slice(1, 5), first=10, progress=taken.append)
    assert [image.shape for image in images] == [(8, 16, 4), (8, 16, 4), (16, 8, 4), (8, 16, 4)]
    assert taken == [3, 3, 1, 1]
    wide = captioned.sized((1, 8, 16, 4)).sample(["two dogs play", "rain", "snow"], spec=spec, first=11)
    high = captioned.sized((1, 16, 8, 4)).sample(["a tall tree"], spec=spec, first=14)
    for image, expected in zip(images, (*wide[:2], *high, wide[2]), strict=True):
        np.testing.assert_array_equal(image, expected)


def test_prompts_are_read_once(captioned: fd.FlexiDiT, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    encode = type(captioned.text).encode
    monkeypatch.setattr(type(captioned.text), "encode", lambda self, found: read.extend(found) or encode(self, found))
    requests = Requests.of(captioned, CAPTIONED, 3)
    for _ in range(2):
        requests.draw(
            captioned, fd.SampleSpec(steps=1, guidance=1.0, solver="ddim", seed=0), slice(0, 1), progress=False
        )
    assert read == CAPTIONS[:3]


def test_labels_are_drawn_as_they_are(flex: fd.FlexiDiT) -> None:
    with_codec = dataclasses.replace(flex, codec=Codec())
    requests = Requests.of(with_codec, SimpleNamespace(classes=3), 5)
    np.testing.assert_array_equal(requests.asked, [0, 1, 2, 0, 1])
    spec = fd.SampleSpec(steps=1, guidance=1.0, solver="ddim", seed=0)
    found = requests.draw(with_codec, spec, slice(2, 5), progress=False)
    np.testing.assert_array_equal(found, with_codec.sample([2, 0, 1], spec=spec, first=2, progress=False))
    assert requests.titles(SimpleNamespace(classes=3)) == (["0", "1", "2"], "class")
    assert Requests(CAPTIONS * 2, [None] * 10).titles(None) == ((CAPTIONS * 2)[:8], "caption")


@pytest.mark.parametrize("dataset", [object(), SimpleNamespace(classes=None)])
def test_a_dataset_with_nothing_to_ask_for_is_refused(flex: fd.FlexiDiT, dataset: object) -> None:
    with pytest.raises(UserError) as caught:
        Requests.of(flex, dataset, 5)
    assert str(caught.value) == (
        "samples are scored by what the dataset can ask for, and this one has neither classes nor captions to ask for"
        " (see data/__init__.py); --mode=generate draws images, which --mode=evaluate without --config scores"
    )
