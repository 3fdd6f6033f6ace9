"""Images in whole files, and the array of all: what counts as finished."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

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
