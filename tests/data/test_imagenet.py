"""The ImageNet dataset on records of tensorflow-datasets' layout; the crop; the flip; synthetic records."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexidit_jax.common.errors import UserError
from flexidit_jax.data.corrupt import Corrupt
from flexidit_jax.data.crop import centre_crop
from flexidit_jax.data.imagenet import Dataset, _Crops
from flexidit_jax.data.loader import batches
from flexidit_jax.data.synthetic import Dataset as Synthetic

SPLITS = ("train", "validation")


def jpeg(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A prepared data set of two files a split, all empty: what they hold, tensorflow-datasets mocks."""
    folder = tmp_path / "imagenet2012" / "5.1.0"
    folder.mkdir(parents=True)
    template = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    splits = [{"name": name, "shardLengths": ["2", "1"], "filepathTemplate": template} for name in SPLITS]
    words = {"name": "imagenet2012", "version": "5.1.0", "fileFormat": "array_record", "splits": splits}
    (folder / "dataset_info.json").write_text(json.dumps(words))
    for name in SPLITS:
        for i in range(2):
            (folder / f"imagenet2012-{name}.array_record-0000{i}-of-00002").touch()
    return folder


def test_records_of_tfds(prepared: Path) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=3, data_dir=str(prepared.parents[1])):
        source = Dataset(32, data_dir=str(prepared.parents[1])).source()
        assert len(source) == 3
        record = source[2]
    assert record["x"].shape == (1, 32, 32, 3) and record["x"].dtype == np.float32
    assert -1 <= record["x"].min() < -0.5 < 0.5 < record["x"].max() <= 1
    assert record["label"].dtype == np.int32 and 0 <= record["label"] < 1000


def test_absent_data_names_the_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no imagenet2012 array records in .*ILSVRC2012_img_train.tar and .*_val.tar"):
        Dataset(data_dir=str(tmp_path)).source()
    with pytest.raises(UserError, match=r"^dataset.size must be positive, got 0$"):
        Dataset(size=0)


def test_missing_files_are_counted_and_the_first_is_named(prepared: Path) -> None:
    home = prepared.parents[1]
    dataset = Dataset(data_dir=str(home))
    assert (len(dataset.source()), len(dataset.held_out())) == (3, 3)
    anew = f"; move or delete {home}/imagenet2012, put ILSVRC2012_img_train.tar and "
    absent = prepared / "imagenet2012-train.array_record-00001-of-00002"
    absent.unlink()
    with pytest.raises(UserError) as error:
        dataset.source()
    says = f"1 of 2 files of imagenet2012's train records are missing, the first is {absent}{anew}"
    assert str(error.value).startswith(says)
    assert len(dataset.held_out()) == 3
    (prepared / "imagenet2012-validation.array_record-00000-of-00002").unlink()
    with pytest.raises(UserError, match=r"^1 of 2 files of imagenet2012's validation records are missing, the first"):
        dataset.held_out()


@pytest.mark.parametrize("content", ["", "{}", "[1", '{"name": 3}'])
def test_an_unreadable_dataset_info_is_refused(prepared: Path, content: str) -> None:
    (prepared / "dataset_info.json").write_text(content)
    home = prepared.parents[1]
    says = (
        rf"^no imagenet2012 array records in {home}; move or delete {home}/imagenet2012, put ILSVRC2012_img_train.tar"
    )
    with pytest.raises(UserError, match=says):
        Dataset(data_dir=str(home)).source()


def test_crop_is_the_middle_of_the_halved_image() -> None:
    image = np.zeros((160, 80, 3), np.uint8)
    image[40:120] = np.arange(80, dtype=np.uint8)[:, None, None] * 3  # the middle square, a ramp along height
    crop = centre_crop(Image.fromarray(image), 20)
    averaged = image[40:120].reshape(20, 4, 20, 4, 3).mean((1, 3))  # halved twice by box averaging, nothing else
    assert np.abs(crop - averaged).max() <= 1
    wide = centre_crop(Image.fromarray(image.transpose(1, 0, 2)), 20)
    np.testing.assert_array_equal(wide, crop.transpose(1, 0, 2))
    assert centre_crop(Image.fromarray(image[:50, :, 0]), 33).shape == (33, 33, 3)  # grey, odd sizes


def test_of_an_odd_remainder_the_crop_leaves_the_smaller_half_before() -> None:
    tall = np.random.default_rng(0).integers(0, 256, (50, 33, 3), np.uint8)  # 17 rows too many
    np.testing.assert_array_equal(centre_crop(Image.fromarray(tall), 33), tall[8:41])
    wide = np.ascontiguousarray(tall.transpose(1, 0, 2))
    np.testing.assert_array_equal(centre_crop(Image.fromarray(wide), 33), wide[:, 8:41])


def test_records_hold_the_crop_and_the_flip_mirrors_half_of_them() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[:, :8] = 255
    source = _Crops([{"image": jpeg(image), "label": 7, "file_name": "a.JPEG"}] * 50, 16)
    np.testing.assert_allclose(source[0]["x"][0], image / 127.5 - 1, atol=0.05)
    stream = batches(source, 25, seed=0, augment=Dataset().augment)
    first, second = next(stream), next(stream)
    bright_left = np.concatenate([batch["x"][:, 0, :, :8].mean((1, 2, 3)) for batch in (first, second)]) > 0
    assert 10 < bright_left.sum() < 40
    again = next(batches(source, 25, seed=0, augment=Dataset().augment))
    np.testing.assert_array_equal(again["x"], first["x"])


def test_a_corrupt_image_is_skipped_and_named(prepared: Path, caplog: pytest.LogCaptureFixture) -> None:
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=6, data_dir=str(prepared.parents[1])):
        records = [dict(record) for record in Dataset(data_dir=str(prepared.parents[1]))._records("train")]
    records[2] |= {"image": records[2]["image"][:-40], "file_name": np.array(b"n01440764_10.JPEG", object)}

    class Mocked(Dataset):
        def _records(self, split: str) -> list[dict]:
            return records

    source = Mocked(32).source()
    np.testing.assert_array_equal(source[2]["x"], source[3]["x"])
    assert source[2]["label"] == records[3]["label"]
    [warning] = [record.getMessage() for record in caplog.records if "corrupt" in record.getMessage()]
    assert warning.startswith("corrupt, skipped (1 of at most 1): n01440764_10.JPEG (image file is truncated")
    with pytest.raises(
        UserError, match=r"^1 of 6 records are corrupt, more than dataset.max_corrupt=0 admits; the last"
    ):
        Mocked(32, max_corrupt=0).source()[2]


def test_a_damaged_array_record_is_corrupt(tmp_path: Path) -> None:
    module = pytest.importorskip("array_record.python.array_record_module")
    data_source = pytest.importorskip("array_record.python.array_record_data_source")
    path = tmp_path / "x.array_record"
    writer = module.ArrayRecordWriter(str(path), "group_size:1")
    for i in range(10):
        writer.write(np.random.default_rng(i).bytes(5000))
    writer.close()
    content = bytearray(path.read_bytes())
    content[30_000] ^= 1
    path.write_bytes(content)

    class Read(list):  # records of that file, all with a sound image
        def __init__(self) -> None:
            super().__init__([{"image": jpeg(np.zeros((16, 16, 3), np.uint8)), "label": 0, "file_name": b"x"}] * 10)
            self._file = data_source.ArrayRecordDataSource([str(path)])

        def __getitem__(self, i: int) -> dict:
            assert self._file[i]
            return super().__getitem__(i)

    source = _Crops(Read(), 16)
    damaged = []
    for i in range(10):
        try:
            source[i]
        except Corrupt as error:
            damaged.append((i, str(error)))
    assert damaged == [(5, "array record 5 (its checksum does not match)")]
    with pytest.raises(UserError, match=r"^record 0 of imagenet2012 cannot be read \("):
        _Crops(_Unreadable(), 16)[0]


class _Unreadable(list):
    def __getitem__(self, i: int) -> dict:
        raise RuntimeError("Input/output error")


def test_synthetic_records() -> None:
    source = Synthetic(shape=(2, 8, 6, 3), classes=5, records=11).source()
    assert len(list(source)) == 11
    assert source[7]["x"].shape == (2, 8, 6, 3) and source[7]["label"] == 2
    np.testing.assert_array_equal(source[7]["x"], Synthetic(shape=(2, 8, 6, 3), classes=5, records=11).source()[7]["x"])
    assert np.abs(source[7]["x"] - source[2]["x"]).max() > 0.1
    held_out = Synthetic(shape=(2, 8, 6, 3), classes=5, records=11).held_out()
    assert np.abs(held_out[7]["x"] - source[7]["x"]).max() > 0.1
    with pytest.raises(UserError, match=r"^dataset.shape must be"):
        Synthetic(shape=(8, 8, 3))
