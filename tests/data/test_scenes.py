"""Scenes of two digits: what captions say is what there is to see, and what is held out is never trained on."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from sklearn.datasets import load_digits

from flexidit_jax.common.errors import UserError
from flexidit_jax.data.scenes import KINDS, SHAPES, WORDS, Dataset, Scene, every_scene


@pytest.fixture(scope="module")
def scenes() -> Dataset:
    return Dataset(records=2000, held_out=200)


def cells_by_kind(scenes: Dataset, held_out: bool = False) -> dict[int, set[bytes]]:
    known: dict[int, set[bytes]] = {kind: set() for kind in range(len(KINDS))}
    for record in scenes.examples(held_out):
        known[int(record["label"])].add(record["x"].tobytes())
    return known


def test_captions_are_exact(scenes: Dataset) -> None:
    """Cut at the middle, each half is a digit of the kind that the caption says, and one that is trained on."""
    known, source = cells_by_kind(scenes), scenes.source()
    for i in range(0, len(source), 7):
        record = source[i]
        [caption] = record["texts"]
        first, relation, second = caption.replace(" left of ", "|left|").replace(" above ", "|above|").split("|")
        x = record["x"]
        assert x.dtype == np.float32 and x.shape == {"left": (1, 8, 16, 1), "above": (1, 16, 8, 1)}[relation]
        halves = (x[:, :, :8], x[:, :, 8:]) if relation == "left" else (x[:, :8], x[:, 8:])
        for words, half in zip((first, second), halves, strict=True):
            assert words.startswith("a ") and half.tobytes() in known[KINDS.index(words[2:])]


def test_a_faint_digit_has_half_the_ink(scenes: Dataset) -> None:
    images, labels = load_digits(return_X_y=True)
    known = {image.tobytes(): label for image, label in zip(images.astype(np.float32), labels)}
    examples = scenes.examples() + scenes.examples(held_out=True)
    assert len(examples) == 2 * len(images)
    for record in examples:
        ink, word = KINDS[record["label"]].split()
        share = {"bold": 8, "faint": 16}[ink]
        assert known[((record["x"] + 1) * share).reshape(64).tobytes()] == WORDS.index(word)


def test_digits_and_pairs_that_are_held_out_are_never_trained_on(scenes: Dataset) -> None:
    training, held = cells_by_kind(scenes), cells_by_kind(scenes, held_out=True)
    assert all(not training[kind] & held[kind] for kind in training)
    source = scenes.source()
    captions = {source[i]["texts"][0] for i in range(2000)}
    others = {str(scene) for scene in every_scene()} - captions
    assert len(captions) == 720 and len(others) == 80
    assert all(map(scenes.seen, captions)) and not any(map(scenes.seen, others))
    assert {record["text"] for record in Dataset(held_out=800).held_out()} == captions | others
    for record in scenes.held_out():
        for kind, cell in zip(scenes.wanted(record["text"]), scenes.cells(record["x"][0])):
            assert cell[None].tobytes() in held[kind]


def test_every_word_is_as_frequent_among_those_held_out() -> None:
    for seen in (True, False):
        found = [scene for scene in every_scene() if scene.seen == seen]
        for place in (0, 1):
            assert len({*Counter(scene.kinds[place] for scene in found).values()}) == 1
        assert {*Counter(scene.relation for scene in found).values()} == {len(found) // 2}
    assert len(every_scene()) == len({*every_scene()}) == 800


def test_a_record_depends_on_seed_and_number_alone(scenes: Dataset) -> None:
    one, other = scenes.source(), Dataset(records=50, held_out=1).source()
    np.testing.assert_array_equal(one[7]["x"], one[7]["x"])
    np.testing.assert_array_equal(one[7]["x"], other[7]["x"])
    assert not np.array_equal(one[7]["x"], Dataset(seed=1).source()[7]["x"])
    assert one[7]["texts"] == one[727]["texts"] and not np.array_equal(one[7]["x"], one[727]["x"])
    for i in (-1, 2000):
        with pytest.raises(IndexError):
            one[i]


def test_bins_are_those_of_the_shapes(scenes: Dataset) -> None:
    source = scenes.source()
    assert scenes.shape == scenes.shapes[0]
    assert [source[i]["x"].shape for i in range(20)] == [SHAPES[own] for own in source.bins[:20]]
    assert len(source.bins) == len(source) and {*np.bincount(source.bins)} == {1000}
    held = scenes.held_out()
    assert [held[i]["x"].shape for i in range(20)] == [SHAPES[own] for own in held.bins[:20]]
    assert [source[i]["texts"] for i in range(20)] == source.texts[:20] and len(source.texts) == 2000
    assert [(held[i]["text"],) for i in range(20)] == held.texts[:20] and len(held.texts) == len(held) == 200


def test_one_of_the_captions_is_trained_on(scenes: Dataset) -> None:
    record = {"x": np.zeros((1, 8, 16, 1), np.float32), "texts": ("one", "two", "three")}
    drawn = [scenes.augment(record, np.random.default_rng(seed)) for seed in range(40)]
    assert {one["text"] for one in drawn} == {"one", "two", "three"} and {*drawn[0]} == {"x", "text"}
    assert all(one["x"] is record["x"] for one in drawn)  # not mirrored


def test_captions_to_ask_for_take_turns(scenes: Dataset) -> None:
    captions = scenes.captions(1000)
    assert {*Counter(captions).values()} == {1, 2} and len({*captions}) == 800
    assert [scenes.size(caption) for caption in captions[:4]] == [*SHAPES, *SHAPES]
    assert sum(map(scenes.seen, captions[:800])) == 720


def test_a_picture_is_read_back_cell_by_cell(scenes: Dataset) -> None:
    wide = np.arange(128).reshape(8, 16, 1)
    left, right = scenes.cells(wide)
    np.testing.assert_array_equal(np.concatenate([left, right], 1), wide)
    np.testing.assert_array_equal(
        scenes.cells(wide.transpose(1, 0, 2)), [left.transpose(1, 0, 2), right.transpose(1, 0, 2)]
    )
    assert [KINDS[kind] for kind in scenes.wanted("a bold three above a faint eight")] == ["bold three", "faint eight"]
    for scene in every_scene():
        assert Scene.of(str(scene)) == scene


def test_what_is_no_scene_is_refused() -> None:
    for caption in ("a bold three", "a bold three above a faint ten", "a bold three under a faint one", " a"):
        with pytest.raises(UserError) as caught:
            Scene.of(caption)
        assert str(caught.value) == (f"{caption!r} is no caption of a scene, such as 'a bold two above a faint five'")
    with pytest.raises(UserError, match=r"^dataset\.records must be positive, got 0$"):
        Dataset(records=0)
    with pytest.raises(UserError, match=r"^dataset\.seed must be 0 or more, got -1$"):
        Dataset(seed=-1)
    with pytest.raises(UserError, match=r"^dataset\.held_out must lie in 10\.\.1787, got 9$"):
        Dataset(digits_held_out=9)
