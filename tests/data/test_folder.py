"""A folder of class folders: labels, order, crops, what is kept out, what is corrupt, what is refused."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from flexidit_jax.common.errors import UserError
from flexidit_jax.data.folder import Dataset
from flexidit_jax.data.loader import batches

SIZES = [(40, 30), (16, 16), (33, 90), (70, 64)]


def paint(file: Path, level: int, size: tuple[int, int] = (20, 20)) -> None:
    """One grey, light on the left."""
    pixels = np.full((size[1], size[0], 3), level, np.uint8)
    pixels[:, : size[0] // 2] += 10
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, quality=95)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Three classes of four images; class k has levels 60 k + 10 i, written in no order; files that are none."""
    folder = tmp_path / "images"
    for i in (2, 0, 3, 1):
        for k, name in reversed(list(enumerate(["Zebra", "ant", "bee"]))):
            paint(folder / name / f"{i}.{['jpg', 'JPEG', 'png', 'jpeg'][i]}", 60 * k + 10 * i, SIZES[i])
    (folder / "README.txt").write_text("pictures")
    (folder / "ant" / "notes.txt").write_text("of ants")
    (folder / "ant" / "._0.jpg").write_bytes(b"a shadow of another system")
    (folder / "ant" / "more").mkdir()
    (folder / ".cache").mkdir()
    return folder


def levels(source) -> list[tuple[int, int]]:
    """(label, i) of every record, from its middle grey."""
    return [
        (int(record["label"]), round((127.5 * (float(record["x"].mean()) + 1) - 5 - 60 * record["label"]) / 10))
        for record in source
    ]


def test_records(images: Path) -> None:
    dataset = Dataset(path=str(images), size=16)
    assert (dataset.classes, dataset.shape) == (3, (1, 16, 16, 3))
    source = dataset.source()
    assert levels(source) == [(k, i) for k in range(3) for i in range(4)]  # capitals come before small letters
    record = source[5]
    assert record["x"].shape == (1, 16, 16, 3) and record["x"].dtype == np.float32
    assert record["label"].dtype == np.int32
    left, right = record["x"][..., :7, :].mean(), record["x"][..., 9:, :].mean()
    assert abs((left - right) * 127.5 - 10) < 2 and record["x"].min() >= -1


def test_files_are_listed_once(images: Path) -> None:
    dataset = Dataset(path=str(images), size=16)
    before = levels(dataset.source())
    paint(images / "ant" / "00.png", 0)
    assert levels(dataset.source()) == before
    assert len(Dataset(path=str(images), size=16).source()) == len(before) + 1


def test_batches_flip_half_of_the_images(images: Path) -> None:
    dataset = Dataset(path=str(images), size=16)
    stream = batches(dataset.source(), 12, 0, dataset.augment, threads=2)
    x = np.concatenate([next(stream)["x"] for _ in range(8)])[:, 0]
    light_left = x[:, :, :7].mean((1, 2, 3)) > x[:, :, 9:].mean((1, 2, 3))
    assert 30 < light_left.sum() < 66
    stream.close()


def test_a_share_of_every_class_is_kept_from_training(images: Path) -> None:
    dataset = Dataset(path=str(images), size=16, held_out_share=0.5)
    assert levels(dataset.source()) == [(k, i) for k in range(3) for i in (0, 2)]
    assert levels(dataset.held_out()) == [(k, i) for k in range(3) for i in (1, 3)]


def test_a_validation_folder(images: Path, tmp_path: Path) -> None:
    for k, name in enumerate(["bee", "Zebra", "ant"]):
        paint(tmp_path / "val" / name / "x.png", [120, 0, 60][k])
    dataset = Dataset(path=str(images), size=16, validation=str(tmp_path / "val"))
    assert levels(dataset.held_out()) == [(0, 0), (1, 0), (2, 0)]
    assert len(dataset.source()) == 12
    (tmp_path / "val" / "bee").rename(tmp_path / "val" / "wasp")
    with pytest.raises(UserError) as caught:
        Dataset(path=str(images), size=16, validation=str(tmp_path / "val")).held_out()
    assert str(caught.value) == (
        f"dataset.validation={tmp_path / 'val'} lacks a class folder 'bee', unlike dataset.path"
    )


def test_a_held_out_part_that_is_asked_for_must_be_there_to_train(images: Path, tmp_path: Path) -> None:
    def refused(**words: object) -> str:
        with pytest.raises(UserError) as caught:
            Dataset(path=str(images), size=16, **words).source()
        return str(caught.value)

    nowhere = tmp_path / "nowhere"
    assert refused(validation=str(nowhere)).startswith(
        f"dataset.validation={nowhere} cannot be listed (No such file or directory); it must hold one folder per class"
    )
    assert refused(held_out_share=0.02) == (
        f"no image of {images} is kept from training (dataset.held_out_share=0.02); set that to a larger share, or"
        " dataset.validation to a folder of the same class folders"
    )
    assert len(Dataset(path=str(images), size=16).source()) == 12  # no part is asked for


def test_the_fingerprint_is_that_of_names_wherever_they_are(images: Path, tmp_path: Path) -> None:
    def fingerprint(path: Path, held_out: bool = False, **words) -> str | None:
        return Dataset(path=str(path), size=16, classes=3, **words).fingerprint(held_out)

    ours, moved, val = fingerprint(images), tmp_path / "moved", tmp_path / "val"
    assert re.fullmatch(r"[0-9a-f]{16}", ours)
    halves = [fingerprint(images, held_out, held_out_share=0.5) for held_out in (False, True)]
    assert len({ours, *halves}) == 3
    shutil.copytree(images, val)
    (val / "ant" / "2.png").rename(val / "ant" / "4.png")
    assert fingerprint(images, validation=str(val)) == ours == fingerprint(val, True, validation=str(images))
    assert fingerprint(images, True, validation=str(val)) == fingerprint(val) != ours
    images.rename(moved)
    assert fingerprint(moved) == ours
    assert fingerprint(images) is fingerprint(images, True, validation=str(val)) is None
    assert fingerprint(moved, True, validation="nowhere") is None
    images.mkdir()  # as a share that is not mounted
    assert fingerprint(images) is None
    (moved / "ant").rename(moved / "wasp")
    assert fingerprint(moved) != ours


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("1.JPEG", lambda content: content[:-12], r"(image file is truncated|Truncated File Read).*"),
        ("1.JPEG", lambda content: b"", "empty"),
        ("1.JPEG", lambda content: b"<html>404</html>", "not an image"),
        ("2.png", lambda content: content[:40] + b"\0\0\0\0" + content[44:], ".+"),
        ("2.png", lambda content: content[: len(content) - 30], ".+"),
    ],
)
def test_a_corrupt_file_is_skipped_and_named(
    images: Path, name: str, damage, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = images / "ant" / name
    file.write_bytes(damage(file.read_bytes()))
    source = Dataset(path=str(images), size=16).source()
    i = int(name[0])
    expected = [(k, j) for k in range(3) for j in range(4)]
    expected[4 + i] = expected[5 + i]
    assert levels(source) == levels(source) == expected
    [warning] = [record.getMessage() for record in caplog.records]
    assert re.fullmatch(rf"corrupt, skipped \(1 of at most 1\): {re.escape(str(file))} \({reason}\)", warning)


def test_too_many_corrupt_files_stop_a_stream(images: Path) -> None:
    for name in ("Zebra", "bee"):
        (images / name / "0.jpg").write_bytes(b"")
    stream = batches(Dataset(path=str(images), size=16).source(), 12, 0, threads=2)
    with pytest.raises(UserError, match=r"^2 of 12 records are corrupt, more than dataset.max_corrupt=0.001 admits; "):
        next(stream)
    stream.close()


def test_a_file_that_cannot_be_read_is_not_skipped(images: Path) -> None:
    source = Dataset(path=str(images), size=16).source()
    (images / "ant" / "0.jpg").unlink()
    with pytest.raises(UserError) as caught:
        source[4]
    assert str(caught.value) == (
        f"{images}/ant/0.jpg was listed but cannot be read (No such file or directory);"
        " when it can, the same command goes on"
    )


def test_absent_data_says_which_files_go_where(tmp_path: Path, images: Path) -> None:
    def refused(path: Path | str, **keys: object) -> str:
        with pytest.raises(UserError) as caught:
            dataset = Dataset(path=str(path), **keys)
            dataset.source()
            dataset.held_out()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    wanted = (
        "it must hold one folder per class with its images, such as {}/cat/001.jpg (or .png, .webp, .tif and others)"
    )
    nowhere = tmp_path / "nowhere"
    told = "; where the folder is not, dataset.classes says how many there are"
    for classes, more in ((None, told), (3, "")):
        assert refused(nowhere, classes=classes) == (
            f"dataset.path={nowhere} cannot be listed (No such file or directory); {wanted.format(nowhere)}{more}"
        )
    flat = images / "ant"
    assert refused(flat) == (
        f"dataset.path={flat} has no class folders with images; left out: 4 images beside the class folders (0.jpg), 1"
        f" file of kind .txt (notes.txt); no class: more (no images); {wanted.format(flat)}{told}"
    )
    empty = flat / "more"
    assert refused(empty, classes=3) == f"dataset.path={empty} has no class folders with images; {wanted.format(empty)}"
    assert refused(images, classes=4) == (
        f"dataset.classes is 4, but {images} has 3 class folders; dataset.classes=None counts them; no class: .cache"
        " (hidden)"
    )
    assert refused(images).startswith(f"no image of {images} is kept from training (dataset.held_out_share=0); set")
    assert refused(images, held_out_share=0.1).startswith(f"no image of {images} is kept from training")
    assert refused(images, held_out_share=1.5) == ("dataset.held_out_share is a share in [0, 1), such as 0.02, got 1.5")
    assert refused(images, held_out_share=0.1, validation="x").endswith("are both set; one of them is enough")
    assert refused(images, validation=str(nowhere)).startswith(f"dataset.validation={nowhere} cannot be listed")
    assert refused(images, size=0) == "dataset.size must be positive, got 0"
    assert Dataset(path=str(nowhere), classes=3).classes == 3  # sampling asks for no more


def test_images_of_deeper_folders_and_other_kinds(images: Path) -> None:
    flat = Dataset(path=str(images), size=16).fingerprint()
    paint(images / "ant" / "more" / "day1" / "9.png", 60 + 40)
    paint(images / "bee" / "4.AVIF" if features.check("avif") else images / "bee" / "4.tga", 120 + 40)
    dataset = Dataset(path=str(images), size=16)
    expected = [(k, i) for k in range(3) for i in range(4)]
    expected.insert(8, (1, 4))
    assert levels(dataset.source()) == [*expected, (2, 4)]
    assert dataset.fingerprint() != flat
    (images / "ant" / "more" / "day1").rename(images / "ant" / "more" / "day2")
    assert Dataset(path=str(images), size=16).fingerprint() not in (flat, dataset.fingerprint())


def test_the_fingerprint_of_a_flat_folder_is_as_ever(tmp_path: Path) -> None:
    """A run of before is told by it from one of other images."""
    for name in ("Zebra/2.jpg", "ant/0.png", "ant/10.png", "ant/9.png", "bee/a b.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert Dataset(path=str(tmp_path)).fingerprint() == "a30bbe523e80a21e"


def test_a_summary_says_what_was_found_and_what_is_held_out(images: Path, tmp_path: Path) -> None:
    def summary(**words: object) -> str:
        return Dataset(path=str(images), size=16, **words).summary()

    others = "; left out: 2 files of kind .txt (README.txt); no class: .cache (hidden)"
    hint = "none held out to evaluate with (dataset.held_out_share or dataset.validation does)"
    assert summary() == f"12 images in 3 classes, {hint}{others}"
    assert summary(held_out_share=0.5) == f"12 images in 3 classes, 6 of them held out{others}"
    for name in ("Zebra", "ant", "bee"):
        paint(tmp_path / "val" / name / "x.png", 0)
    (tmp_path / "val" / "bee" / "y.heic").touch()
    assert summary(validation=str(tmp_path / "val")) == (
        f"12 images in 3 classes{others}; held out: 3 images in 3 classes; left out: 1 file of kind .heic (bee/y.heic)"
    )


def test_a_folder_without_images_is_no_class_and_names_are_those_of_the_others(images: Path) -> None:
    (images / "0empty").mkdir()
    dataset = Dataset(path=str(images), size=16)
    assert (dataset.classes, dataset.names) == (3, ("Zebra", "ant", "bee"))
    assert levels(dataset.source())[0] == (0, 0)
    assert "; no class: .cache (hidden), 0empty (no images)" in dataset.summary()
    assert Dataset(path=str(images), size=16, classes=4).names is None
    with pytest.raises(UserError, match=r"^dataset\.classes is 4, but .* has 3 .*0empty \(no images\)$"):
        Dataset(path=str(images), size=16, classes=4).source()
    assert Dataset(path=str(images / "nowhere"), size=16).names is None


def test_an_image_that_is_too_large_is_skipped_and_named(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = Dataset(path=str(images), size=16, max_pixels=33 * 90, max_corrupt=0.5).source()
    expected = [(k, i) for k in range(3) for i in range(4)]
    expected[3], expected[7], expected[11] = (1, 0), (2, 0), (0, 0)  # the next one
    assert levels(source) == expected
    assert len(caplog.records) == 3
    assert caplog.records[0].getMessage() == (
        f"corrupt, skipped (1 of at most 6): {images}/Zebra/3.jpeg (4,480 pixels, more than dataset.max_pixels=2970"
        " admits)"
    )
