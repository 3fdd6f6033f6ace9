"""Captioned images: records, one caption of several, crops of bins, what is held out, what is counted and refused."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexidit_jax.common.errors import UserError
from flexidit_jax.data import picture_bins
from flexidit_jax.data.captioned import Dataset
from flexidit_jax.data.loader import batches
from flexidit_jax.data.record_images import of_dataset


def paint(file: Path, level: int = 0, size: tuple[int, int] = (20, 20), **words: object) -> None:
    """One grey, light on the left; `size` is width and height."""
    pixels = np.full((size[1], size[0], 3), level, np.uint8)
    pixels[:, : size[0] // 2] += 10
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, **words)


def metadata(folder: Path, *rows: Mapping[str, object]) -> None:
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Six pictures with one caption or several, written in no order."""
    folder = tmp_path / "images"
    for i in (3, 0, 5, 1, 4, 2):
        paint(folder / f"{'ab'[i % 2]}/{i}.png", 20 * i)
    captions = {i: f"{i}" for i in range(6)} | {3: ["3", "three", "trois"]}
    metadata(folder, *({"file_name": f"{'ab'[i % 2]}/{i}.png", "text": captions[i]} for i in range(6)))
    return folder


def dataset(path: Path | str, **words: object) -> Dataset:
    return Dataset(**{"path": str(path), "size": 16, **words})


def refused(path: Path | str, **words: object) -> str:
    with pytest.raises(UserError) as caught:
        dataset(path, **words).source()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_records(images: Path) -> None:
    data = dataset(images)
    source = data.source()
    assert (data.shape, data.shapes, hasattr(source, "bins")) == ((1, 16, 16, 3), None, False)
    assert [record["texts"] for record in source] == [("0",), ("2",), ("4",), ("1",), ("3", "three", "trois"), ("5",)]
    record = source[2]
    assert set(record) == {"x", "texts"} and record["x"].shape == (1, 16, 16, 3) and record["x"].dtype == np.float32
    assert [round((record["x"].mean() + 1) * 127.5 - 5) for record in source] == [0, 40, 80, 20, 60, 100]


def test_training_draws_a_caption_and_mirrors_nothing_unless_told(images: Path) -> None:
    data, mirrored = dataset(images), dataset(images, flip=True)
    record, rng = data.source()[4], np.random.default_rng(0)
    drawn = [data.augment(record, rng) for _ in range(60)]
    assert all(set(one) == {"x", "text"} for one in drawn)
    counts = [[one["text"] for one in drawn].count(text) for text in record["texts"]]
    assert sum(counts) == 60 and min(counts) > 10
    assert all(one["x"] is record["x"] for one in drawn)
    turned = sum(one["x"][0, 0, 0, 0] < one["x"][0, 0, -1, 0] for one in (mirrored.augment(record, rng) for _ in drawn))
    assert 15 < turned < 45


def test_batches_are_of_pictures_with_a_text_each(images: Path) -> None:
    data = dataset(images)
    stream = batches(data.source(), 4, 0, data.augment, threads=2)
    batch = next(stream)
    assert batch["x"].shape == (4, 1, 16, 16, 3) and batch["text"].shape == (4,)
    read = {"three": 3, "trois": 3} | {str(i): i for i in range(6)}
    levels = [round((x.mean() + 1) * 127.5 - 5) for x in batch["x"]]
    assert [20 * read[str(text)] for text in batch["text"]] == levels
    stream.close()


def test_a_share_is_kept_from_training_and_has_the_first_caption(images: Path) -> None:
    data = dataset(images, held_out_share=0.5)
    assert [record["texts"] for record in data.source()] == [("0",), ("4",), ("3", "three", "trois")]
    assert [record["text"] for record in data.held_out()] == ["2", "1", "5"]
    assert set(data.held_out()[0]) == {"x", "text"}
    others = dataset(images, validation=str(images)).held_out()
    assert others[4]["text"] == "3" and others.texts[4] == ("3",)  # what nobody reads is not encoded
    message = refused(images, held_out_share=0.01)
    assert message.endswith(
        "(dataset.held_out_share=0.01); set that to a larger share, or dataset.validation to other captioned images"
    )


def test_the_fingerprint_is_that_of_names_and_captions_wherever_they_are(images: Path, tmp_path: Path) -> None:
    ours = dataset(images).fingerprint()
    assert re.fullmatch(r"[0-9a-f]{16}", ours)
    halves = [dataset(images, held_out_share=0.5).fingerprint(held_out) for held_out in (False, True)]
    assert len({ours, *halves}) == 3
    shutil.copytree(images, moved := tmp_path / "moved")
    assert dataset(moved).fingerprint() == ours == dataset(images, validation=str(moved)).fingerprint(True)
    paint(moved / "a/0.png", 99)  # another picture of the same name is not seen
    assert dataset(moved).fingerprint() == ours
    text = (moved / "metadata.jsonl").read_text()
    (moved / "metadata.jsonl").write_text(text.replace('"trois"', '"drei"'))
    assert dataset(moved).fingerprint() != ours
    (moved / "metadata.jsonl").write_text(text)
    (moved / "a/0.png").rename(moved / "a/9.png")
    assert dataset(moved).fingerprint() != ours
    assert dataset(tmp_path / "nowhere").fingerprint() is None
    assert dataset(tmp_path / "{00..01}.tar").fingerprint() is None
    assert dataset(images, validation=str(tmp_path / "no")).fingerprint(True) is None


def test_a_summary_says_what_was_found_and_what_is_left_out(images: Path, tmp_path: Path) -> None:
    hint = "none held out to evaluate with (dataset.held_out_share or dataset.validation does)"
    assert dataset(images).summary() == f"6 images with 8 captions, {hint}"
    assert dataset(images, held_out_share=0.5).summary() == "6 images with 8 captions, 3 of them held out"
    paint(images / "alone.png")
    (images / "x.txt").write_text("of nothing")
    assert dataset(images, held_out_share=0.5).summary() == (
        "6 images with 8 captions, 3 of them held out; left out: 1 caption without an image (x.txt), 1 image without a"
        " caption (alone.png)"
    )
    paint(tmp_path / "val" / "0.png")
    (tmp_path / "val" / "0.txt").write_text("0")
    (tmp_path / "val" / "1.txt").write_text("1")
    assert dataset(images, validation=str(tmp_path / "val")).summary() == (
        "6 images with 8 captions; left out: 1 caption without an image (x.txt), 1 image without a caption (alone.png);"
        " held out: 1 image with 1 caption; left out: 1 caption without an image (1.txt)"
    )


def test_pictures_go_to_the_bin_of_the_nearest_ratio_as_they_are_shown(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    paint(tmp_path / "square.png", 0, (40, 41))
    paint(tmp_path / "turned.jpg", 0, (60, 30), exif=turned)
    paint(tmp_path / "wide.png", 0, (60, 30))
    for name in ("square", "turned", "wide"):
        (tmp_path / f"{name}.txt").write_text(name)
    data = dataset(tmp_path, size=32, unit=4, bins=True)
    assert data.shape in data.shapes and (1, 16, 64, 3) in data.shapes
    source = data.source()
    sizes = [data.shapes[number] for number in source.bins]
    assert source.bins.dtype == np.int32 and len(source.bins) == 3
    assert sizes == [(1, 32, 32, 3), (1, 40, 24, 3), (1, 20, 48, 3)]
    assert [record["x"].shape for record in source] == sizes
    held = dataset(tmp_path, size=32, unit=4, bins=True, held_out_share=0.4).held_out()
    assert held.bins.tolist() == [source.bins[2]] and held[0]["text"] == "wide"


def test_headers_are_read_once(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    def noted(file: object, name: str, max_pixels: int) -> tuple[int, int]:
        read.append(name)
        return 20, 20

    monkeypatch.setattr(picture_bins, "shown_size", noted)
    data = dataset(images, size=32, bins=True, held_out_share=0.5)
    for _ in range(2):
        assert (len(data.source()), len(data.held_out())) == (3, 3)
    assert sorted(read) == [f"{images}/{'ab'[i % 2]}/{i}.png" for i in (0, 2, 4, 1, 3, 5)]


def test_a_size_that_is_said_is_not_read(tmp_path: Path) -> None:
    paint(tmp_path / "0.png", 0, (60, 30))
    metadata(tmp_path, {"file_name": "0.png", "text": "a", "width": 30, "height": 60})
    data = dataset(tmp_path, size=32, unit=4, bins=True)
    assert [data.shapes[number] for number in data.source().bins] == [(1, 40, 24, 3)]
    metadata(tmp_path, {"file_name": "0.png", "text": "a", "width": 30, "height": None})
    data = dataset(tmp_path, size=32, unit=4, bins=True)
    assert [data.shapes[number] for number in data.source().bins] == [(1, 20, 48, 3)]


def test_a_corrupt_picture_is_replaced_by_one_of_its_bin(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i, size in enumerate([(30, 30), (60, 30), (30, 30), (60, 30), (30, 30), (30, 30)]):
        paint(tmp_path / f"{i}.png", 20 * i, size)
        (tmp_path / f"{i}.txt").write_text(str(i))
    (tmp_path / "2.png").write_bytes(b"no picture")
    content = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(content[: len(content) // 2 + 10])
    source = dataset(tmp_path, size=32, unit=4, bins=True, max_corrupt=0.5).source()
    assert [record["texts"][0] for record in source] == ["0", "3", "4", "3", "4", "5"]
    assert [record["x"].shape[1] for record in source] == [32, 20, 32, 20, 32, 32]
    assert [record.getMessage()[:37] for record in caplog.records] == [
        "corrupt, skipped (1 of at most 3): " + str(tmp_path)[:2],
        "corrupt, skipped (2 of at most 3): " + str(tmp_path)[:2],
    ]


def test_a_picture_of_too_many_pixels_is_corrupt(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its header says so: 20,000 x 20,000 pixels are not decoded, neither for its bin nor for its crop."""
    (tmp_path / "0.pgm").write_bytes(b"P5 20000 20000 255\n")
    paint(tmp_path / "1.png")
    for name in "01":
        (tmp_path / f"{name}.txt").write_text(name)
    for bins in (False, True):
        source = dataset(tmp_path, size=32, bins=bins, max_corrupt=0.5).source()
        assert [record["texts"] for record in source] == [("1",), ("1",)]
    with pytest.raises(UserError, match=r"^2 of 2 records are corrupt"):
        dataset(tmp_path, max_pixels=399).source()[1]
    assert (
        caplog.records[0]
        .getMessage()
        .endswith("0.pgm (400,000,000 pixels, more than dataset.max_pixels=178956970 admits)")
    )


def test_what_is_refused(images: Path, tmp_path: Path) -> None:
    wanted = (
        "; it must hold images with a text beside each, such as cat.png and cat.txt, or with a metadata.jsonl of"
        ' lines {"file_name": "cat.png", "text": "a cat"}, or .tar shards'
    )
    nowhere = tmp_path / "nowhere"
    assert refused(nowhere) == f"dataset.path={nowhere} cannot be listed (No such file or directory){wanted}"
    assert refused(images, validation=str(nowhere)).startswith(f"dataset.validation={nowhere} cannot be listed")
    paint(tmp_path / "bare" / "0.png")
    assert refused(tmp_path / "bare") == (
        f"dataset.path={tmp_path / 'bare'} holds no images with captions; left out: 1 image without a caption"
        f" (0.png){wanted}"
    )
    assert refused(images, bins=True, size=250) == (
        "dataset.bins wants a dataset.size that dataset.unit=32 divides, such as 256, got 250"
    )
    assert refused(images, unit=0) == "dataset.unit must be positive, got 0"
    assert refused(images, held_out_share=1.0).startswith("dataset.held_out_share is a share in [0, 1)")
    assert refused(images, validation_captions="x.json") == (
        "dataset.validation_captions are of dataset.validation, which is not set"
    )
    assert refused(images, caption="txet").endswith(
        "metadata.jsonl has no column 'txet' for dataset.caption; did you mean 'text'?"
    )


def test_evaluations_read_images_of_one_size(images: Path) -> None:
    section = {"name": "captioned", "path": str(images), "captions": None}
    found = of_dataset(dataset(images), section, "train")
    assert next(found.batches(6)).shape == (6, 16, 16, 3) and not {"path", "captions"} & set(found.known)
    with pytest.raises(UserError, match=r"^features are of images of one size; dataset\.bins=False crops squares"):
        of_dataset(dataset(images, bins=True, size=32), section, "train")


def test_more_corrupt_pictures_than_may_be_are_refused(images: Path) -> None:
    for name in ("a/0.png", "a/2.png"):
        (images / name).write_bytes(b"")
    assert dataset(images, max_corrupt=0.5).source()[0]["texts"] == ("4",)
    source = dataset(images).source()
    with pytest.raises(UserError, match=r"^2 of 6 records are corrupt, more than dataset\.max_corrupt=0\.001 admits"):
        source[0]


def test_captions_of_coco_lie_elsewhere(images: Path, tmp_path: Path) -> None:
    told = tmp_path / "captions_val.json"
    content = {
        "images": [{"id": 7, "file_name": "b/1.png"}, {"id": 3, "file_name": "a/0.png"}],
        "annotations": [{"image_id": 7, "caption": "one "}, {"image_id": 7, "caption": "uno"}],
    }
    told.write_text(json.dumps(content))
    data = dataset(images, captions=str(told))
    assert [record["texts"] for record in data.source()] == [("one", "uno")]
    assert data.summary().endswith(
        "; left out: 5 images without a caption (a/0.png), 1 file of kind .jsonl (metadata.jsonl)"
    )
    held = dataset(images, validation=str(images), validation_captions=str(told))
    assert (len(held.source()), [record["text"] for record in held.held_out()]) == (6, ["one"])


def test_shards_are_read_as_folders_are(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "00000.tar", "w") as shard:
        for i in range(3):
            picture = io.BytesIO()
            Image.new("RGB", (40 if i else 20, 20), (20 * i,) * 3).save(picture, "PNG")
            for ending, data in (("png", picture.getvalue()), ("txt", b"number %d" % i)):
                member = tarfile.TarInfo(f"{i:03d}.{ending}")
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))
    for path in (tmp_path, tmp_path / "00000.tar", tmp_path / "{00000..00000}.tar"):
        source = dataset(path).source()
        assert [record["texts"] for record in source] == [("number 0",), ("number 1",), ("number 2",)]
        assert [round((record["x"].mean() + 1) * 127.5) for record in source] == [0, 20, 40]
    data = dataset(tmp_path, size=32, unit=4, bins=True)
    assert [data.shapes[number][1:3] for number in data.source().bins] == [(32, 32), (20, 48), (20, 48)]
    assert refused(tmp_path, captions="x.json") == (
        f"dataset.path={tmp_path} are shards, whose captions lie within; leave x.json out"
    )
