"""A folder of pictures: names of others, files beside them, formats by their endings, and going on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flexidit_jax.runs.clips import read_clip
from flexidit_jax.runs.picture_shards import PictureShards

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)


def shards(folder: Path, ending: str, image: tuple[int, ...] = (8, 8, 3), **words: Any) -> PictureShards:
    return PictureShards(
        folder,
        {"num": 5, "shard": 2, "image": list(image)},
        lambda number: {"prompt": f"text {number}", "seed": 7},
        name=lambda number: f"{number // 2}/{number % 2}.{ending}",
        **words,
    )


def make(made: PictureShards, images: np.ndarray) -> None:
    with made.claimed():
        for shard in made.missing():
            made.write(shard, images[made.numbers(shard)][made.held(shard) :])
        made.join(np.arange(5))


def test_names_of_others_with_files_beside_them(tmp_path: Path) -> None:
    beside = [("0/metadata.jsonl", "{}\n"), ("2/metadata.jsonl", "{}\n")]
    make(made := shards(tmp_path, "png", beside=beside), IMAGES)
    there = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
    assert there == [
        *("images/0/0.png", "images/0/1.png", "images/0/metadata.jsonl", "images/1/0.png", "images/1/1.png"),
        *("images/2/0.png", "images/2/metadata.jsonl", "manifest.json", "metadata.jsonl"),
    ]
    lines = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == [name for name in there[:7] if name.endswith("png")]
    assert lines[4]["text"] == "text 4" and made.finished
    with Image.open(tmp_path / "images" / "1" / "1.png") as image:
        assert image.text["prompt"] == "text 3"
        np.testing.assert_array_equal(image, IMAGES[3])
    (tmp_path / "images" / "1" / "1.png").unlink()
    assert shards(tmp_path, "png").missing() == [1] and shards(tmp_path, "png").held(1) == 1


@pytest.mark.parametrize("ending", ["jpg", "jpeg"])
def test_a_jpeg_is_one_and_says_what_it_is_in_its_comment(tmp_path: Path, ending: str) -> None:
    smooth = np.clip(np.linspace(20, 230, 8)[:, None, None] + np.zeros((5, 8, 8, 3)), 0, 255).astype(np.uint8)
    make(shards(tmp_path, ending), smooth)
    with Image.open(tmp_path / "images" / "1" / f"0.{ending}") as image:
        assert image.format == "JPEG" and json.loads(image.info["comment"]) == {"prompt": "text 2", "seed": 7}
        assert np.abs(np.asarray(image).astype(int) - smooth[2]).max() < 6


def test_clips_are_files_of_their_own_format(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    clips = np.zeros((5, 3, 16, 16, 3), np.uint8) + np.arange(5, dtype=np.uint8)[:, None, None, None, None] * 40
    make(shards(tmp_path, "mp4", (3, 16, 16, 3), fps=8), clips)
    found = read_clip(file := tmp_path / "images" / "2" / "0.mp4")
    with av.open(str(file)) as container:
        assert container.streams.video[0].average_rate == 8
    assert found.shape == (3, 16, 16, 3) and abs(int(found.mean()) - 160) < 4
