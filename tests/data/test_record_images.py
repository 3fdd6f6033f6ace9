"""Records of a dataset as images: those that were trained on, read by number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexidit_jax.common.errors import UserError
from flexidit_jax.data import folder, synthetic
from flexidit_jax.data.crop import centre_crop
from flexidit_jax.data.digits import Dataset as Digits
from flexidit_jax.data.record_images import of_dataset

WAVES = {"name": "synthetic", "shape": (1, 8, 8, 3), "classes": 3, "records": 10}


def waves(**more: object) -> synthetic.Dataset:
    return synthetic.Dataset(**{key: value for key, value in {**WAVES, **more}.items() if key != "name"})


def test_by_number(tmp_path: Path) -> None:
    images = of_dataset(waves(), WAVES, "train")
    assert (images.count, images.shape, images.crop, str(images.path)) == (10, (8, 8, 3), None, "synthetic train")
    every = np.concatenate([*images.batches(4)])
    assert every.shape == (10, 8, 8, 3) and every.dtype == np.uint8
    np.testing.assert_array_equal(np.concatenate([*images.batches(4, 3)]), every[3:])
    pieces = [*images.numbered(np.array([1, 5, 6]), 2)]
    assert [len(piece) for piece in pieces] == [2, 1]
    np.testing.assert_array_equal(np.concatenate(pieces), every[[1, 5, 6]])


def test_what_is_another_set() -> None:
    known = {
        of_dataset(waves(), WAVES, "train").sha256,
        of_dataset(waves(), WAVES, "held_out").sha256,
        of_dataset(waves(seed=1), {**WAVES, "seed": 1}, "train").sha256,
    }
    assert len(known) == 3
    assert of_dataset(waves(), WAVES, "train").sha256 in known


def test_a_folder_of_photographs_in_their_own_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat/a.png", "dog/b.png"):
        file = tmp_path / "photos" / name
        file.parent.mkdir(parents=True)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(file)
    found = []
    for place in ("photos", "moved"):
        if place == "moved":
            (tmp_path / "photos").rename(tmp_path / "moved")
        section = {"name": "folder", "path": str(tmp_path / place), "size": 8, "classes": None}
        made = folder.Dataset(path=section["path"], size=8, classes=None)
        found.append(of_dataset(made, section, "train"))
        if place == "photos":
            [batch] = found[0].batches(9)
            with Image.open(tmp_path / "photos" / "cat" / "a.png") as image:
                np.testing.assert_array_equal(batch[0], centre_crop(image, 8))
    assert found[0].crop == "adm 8"
    assert found[0].sha256 == found[1].sha256  # wherever it lies
    (tmp_path / "moved" / "dog" / "b.png").rename(tmp_path / "moved" / "dog" / "c.png")
    made = folder.Dataset(path=section["path"], size=8, classes=None)
    assert of_dataset(made, section, "train").sha256 != found[0].sha256


def test_what_has_no_colours(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        of_dataset(Digits(), {"name": "digits"}, "train")
    said = "features are of single colour images, and those of dataset 'digits' are 1 x 8 x 8 x 1"
    assert str(caught.value) == said
    with pytest.raises(UserError, match="are 2 x 8 x 8 x 3"):
        of_dataset(waves(shape=(2, 8, 8, 3)), WAVES, "train")
