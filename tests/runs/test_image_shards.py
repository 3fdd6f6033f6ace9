"""Images in whole files, and the array of all: what counts as finished."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.runs.image_shards import ImageShards

WORDS = {"num": 6, "shard": 4, "image": [2, 3, 1]}
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 2, 3, 1), np.uint8)
LABELS = np.arange(6, dtype=np.int32)


@pytest.fixture
def shards(tmp_path: Path) -> ImageShards:
    """All written, and joined."""
    shards = ImageShards(tmp_path, WORDS)
    with shards.claimed():
        for shard in shards.missing():
            numbers = shards.numbers(shard)
            shards.write(shard, IMAGES[numbers.start : numbers.stop])
        shards.join(LABELS)
    return shards


def test_the_array_holds_all_images_and_their_classes(shards: ImageShards) -> None:
    arrays = np.load(shards.folder / "samples.npz")
    np.testing.assert_array_equal(arrays["arr_0"], IMAGES)
    np.testing.assert_array_equal(arrays["arr_1"], LABELS)
    assert shards.finished and not shards.missing()


@pytest.mark.parametrize(
    "arrays",
    [
        {"arr_0": IMAGES.view(np.int8), "arr_1": LABELS},
        {"arr_0": IMAGES.reshape(6, 3, 2, 1), "arr_1": LABELS},
        {"arr_0": np.asfortranarray(IMAGES), "arr_1": LABELS},
        {"arr_0": IMAGES, "arr_1": LABELS.view(np.float32)},
    ],
    ids=["type", "shape", "order", "type of the classes"],
)
def test_an_array_of_something_else_is_not_finished_though_as_large(
    shards: ImageShards, arrays: dict[str, np.ndarray]
) -> None:
    file = shards.folder / "samples.npz"
    np.savez(file, arr_0=IMAGES, arr_1=LABELS)
    assert shards.finished
    size = file.stat().st_size
    np.savez(file, **arrays)
    assert file.stat().st_size == size
    assert not shards.finished


# ---------------------------------------------------------------- More images than there were


def test_a_file_that_begins_a_shard_is_completed(shards: ImageShards) -> None:
    more = ImageShards(shards.folder, WORDS | {"num": 9})
    more_images = np.concatenate([IMAGES, IMAGES[:3]])
    assert (more.there(), more.missing(), [more.held(i) for i in more.all]) == (6, [1, 2], [4, 2, 0])
    assert not more.finished
    with more.claimed():
        assert ImageShards.recorded(shards.folder)["num"] == 6
        with pytest.raises(ValueError, match="shard 1 holds uint8"):
            more.write(1, more_images[4:8])  # two of them are there
        more.write(1, more_images[6:8])
        assert shards.missing() == [] and shards.finished  # still the six of before
        more.write(2, more_images[8:])
        more.join(np.arange(9))
    assert ImageShards.recorded(shards.folder)["num"] == 9 and more.finished
    np.testing.assert_array_equal(np.load(shards.folder / "samples.npz")["arr_0"], more_images)
    shards.join(LABELS)  # of a shard that holds more than are asked for, the first
    np.testing.assert_array_equal(np.load(shards.folder / "samples.npz")["arr_0"], IMAGES)


def test_fewer_images_than_were_asked_for_are_refused(shards: ImageShards) -> None:
    with pytest.raises(UserError, match=r"was asked for 6 images, and --num=5 is fewer; go on with --num=6 or more"):
        ImageShards(shards.folder, WORDS | {"num": 5})


@pytest.mark.parametrize("num", [None, "6", 0, True])
def test_a_number_that_is_none_binds_as_any_word(shards: ImageShards, num: object) -> None:
    manifest = shards.folder / "manifest.json"
    manifest.write_text(json.dumps(WORDS | {"num": num}))
    with pytest.raises(UserError, match=r"made with other words: num is .* there, 6 here"):
        ImageShards(shards.folder, WORDS)
