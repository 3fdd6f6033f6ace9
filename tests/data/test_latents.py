"""The `latents` dataset on records written by hand: what a record is, the mirrored half, what is missing or damaged."""

from __future__ import annotations

import json
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.data.latent_writer import LatentShards
from flexidit_jax.data.latents import Dataset, Records, layout, record_dtype
from flexidit_jax.data.loader import batches
from flexidit_jax.data.synthetic import Dataset as Synthetic

NUM, SHARD = 50, 16
OF = {"name": "synthetic", "shape": (1, 16, 16, 3), "classes": 5}
ORIGIN = {"dataset": {**OF, "shape": [1, 16, 16, 3]}, "codec": {"name": "sd_vae", "weights": "0123"}}


def written(folder: Path, flipped: bool = True) -> np.ndarray:
    """Records of random numbers."""
    fields = layout((1, 2, 2, 4), "float16", flipped, {"label": np.int32(0), "size": np.zeros(2)})
    rows, rng = np.zeros(NUM, record_dtype(fields)), np.random.default_rng(0)
    for name in rows.dtype.names[:-2]:
        rows[name] = rng.normal(size=(NUM, 1, 2, 2, 4))
    rows["label"], rows["size"] = np.arange(NUM) % 5, rng.normal(size=(NUM, 2))
    shards = LatentShards(folder, {"num": NUM, "shard": SHARD, "record": fields, **ORIGIN})
    with shards.claimed():
        for shard in shards.missing():
            numbers = shards.numbers(shard)
            shards.write(shard, rows[numbers.start : numbers.stop])
    return rows


@pytest.fixture
def path(tmp_path: Path) -> Path:
    written(tmp_path / "latents" / "train")
    return tmp_path / "latents"


def test_records_are_what_was_written(tmp_path: Path) -> None:
    rows = written(tmp_path / "train")
    source = Dataset(str(tmp_path), OF).source()
    assert len(source) == NUM
    for i in (0, 15, 16, NUM - 1):
        assert set(source[i]) == {"mean", "std", "flipped_mean", "flipped_std", "label", "size"}
        for name, value in source[i].items():
            np.testing.assert_array_equal(value, rows[name][i])
            assert value.dtype == rows[name].dtype
    assert len(list(source)) == NUM
    for i in (-1, NUM):
        with pytest.raises(IndexError):
            source[i]


def test_threads_and_copies_read_the_same(path: Path) -> None:
    source = Records(path / "train")
    expected = [source[i]["mean"] for i in range(NUM)]
    fresh = pickle.loads(pickle.dumps(Records(path / "train")))
    numbers = np.random.default_rng(0).integers(0, NUM, 500)
    with ThreadPoolExecutor(8) as pool:
        for i, record in zip(numbers, pool.map(fresh.__getitem__, numbers.tolist()), strict=True):
            np.testing.assert_array_equal(record["mean"], expected[i])


def test_half_of_the_batches_are_mirror_images_drawn_anew(path: Path) -> None:
    dataset = Dataset(str(path), OF)
    source = dataset.source()
    means = {record[name].tobytes(): (i, name) for i, record in enumerate(source) for name in ("mean", "flipped_mean")}
    deviations = {record["std"].tobytes() for record in source}
    stream = batches(source, NUM, seed=0, augment=dataset.augment)
    epochs = [next(stream) for _ in range(2)]
    flips = []
    for batch in epochs:
        assert set(batch) == {"mean", "std", "label", "size"}
        found = [means[mean.tobytes()] for mean in batch["mean"]]
        assert sorted(i for i, _ in found) == list(range(NUM))
        np.testing.assert_array_equal(batch["label"], [i % 5 for i, _ in found])
        assert all((std.tobytes() in deviations) == (name == "mean") for std, (_, name) in zip(batch["std"], found))
        flips.append(dict(found))
        assert 10 < sum(name == "flipped_mean" for _, name in found) < 40
    assert flips[0] != flips[1]
    again = next(batches(source, NUM, seed=0, augment=dataset.augment))
    np.testing.assert_array_equal(again["mean"], epochs[0]["mean"])


def test_latents_without_mirror_images_stay(tmp_path: Path) -> None:
    written(tmp_path / "train", flipped=False)
    dataset = Dataset(str(tmp_path), OF)
    record = dataset.source()[3]
    assert set(record) == {"mean", "std", "label", "size"}
    for seed in range(8):
        assert dataset.augment(record, np.random.default_rng(seed)) == record


def test_shape_and_classes_need_no_folder() -> None:
    dataset = Dataset("nowhere", OF)
    assert (dataset.shape, dataset.classes) == ((1, 16, 16, 3), 5)
    for read, part, asked in (
        (dataset.source, "train", ""),
        (dataset.held_out, "held_out", " (with --config.encode.held_out=True)"),
    ):
        with pytest.raises(UserError) as error:
            read()
        assert (
            str(error.value) == f"no latents in nowhere/{part}; the same command with --mode=encode makes them{asked}"
        )


def test_no_bit_of_a_record_changes_unseen(tmp_path: Path) -> None:
    """array_record's own checksums, on which `damage` relies: what it passes reads as what was written."""
    rows = written(tmp_path / "train")[:SHARD]
    words = json.loads((tmp_path / "train" / "manifest.json").read_text())
    shards = LatentShards(tmp_path / "train", words)
    file = shards.path(0)
    whole, seen = file.read_bytes(), 0
    held = {i + byte for row in rows for i in [whole.index(row.tobytes())] for byte in range(0, rows.itemsize, 97)}
    for i in sorted({*held, *range(0, len(whole), 499)}):
        content = bytearray(whole)
        content[i] ^= 1 << i % 8
        file.write_bytes(content)
        if shards.missing() or shards.damage(0):
            seen += 1
        else:
            assert i not in held
            read = Records(tmp_path / "train")
            assert all(read[n]["mean"].tobytes() == rows["mean"][n].tobytes() for n in range(SHARD))
    assert seen > len(held)
    file.write_bytes(whole)
    assert not shards.missing() and shards.damage(0) is None


def test_the_fingerprint_is_read_from_the_manifest_alone(path: Path) -> None:
    """`source` has looked for every file already."""
    manifest = path / "train" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"images": "0123"}))
    shutil.rmtree(path / "train" / "shards")
    assert Dataset(str(path), OF).fingerprint() == "0123"
    with pytest.raises(UserError, match=rf"^no latents in {path}/held_out; "):
        Dataset(str(path), OF).fingerprint(held_out=True)


@pytest.mark.parametrize("part", ["train", "held_out"])
def test_latents_of_other_images_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    (path / "train").rename(path / part)
    manifest = path / part / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"images": "0123"}))
    there = {"train": "0123", "held_out": "0123"}
    monkeypatch.setattr(
        Synthetic, "fingerprint", lambda self, held_out: there["held_out" if held_out else "train"], raising=False
    )
    dataset = Dataset(str(path), OF)
    read = dataset.held_out if part == "held_out" else dataset.source
    assert len(read()) == NUM
    there[part] = None  # the images are gone
    assert len(read()) == NUM
    there[part] = "4567"
    with pytest.raises(UserError, match=rf"^{path}/{part} holds latents of other images than those of dataset\.of, "):
        read()


def test_what_is_missing_or_damaged_is_named(path: Path) -> None:
    file = path / "train" / "shards" / "000001.array_record"
    makes, content = "the same command with --mode=encode makes them", bytearray(file.read_bytes())
    file.unlink()
    with pytest.raises(UserError) as error:
        Records(path / "train")
    assert str(error.value) == f"{path}/train holds 3 of 4 files of latents, {file} is missing; {makes}"

    content[200] ^= 1  # one bit of a record
    file.write_bytes(content)
    source = Records(path / "train")
    with pytest.raises(UserError) as error:
        list(source)
    assert str(error.value).startswith(f"{file} is damaged (Corrupted")
    assert str(error.value).endswith(f"); {makes} again")
    assert len([source[i] for i in range(SHARD)]) == SHARD  # other files are what they were

    for cut in (content[:-70_000], b""):
        file.write_bytes(cut)
        with pytest.raises(UserError, match=rf"^{file} is damaged \(.*\); {makes} again$"):
            Records(path / "train")[SHARD]

    for text in ("{", "[]", json.dumps({"num": 3})):
        (path / "train" / "manifest.json").write_text(text)
        with pytest.raises(UserError, match=rf"^{path}/train/manifest.json cannot be read \(.*\); encode into another"):
            Records(path / "train")


def test_latents_of_something_else_are_refused(path: Path) -> None:
    dataset = Dataset(str(path), OF)
    dataset.check_origin(ORIGIN)
    other = {"dataset": ORIGIN["dataset"], "codec": {"name": "sd_vae", "weights": "4567"}}
    with pytest.raises(UserError) as error:
        dataset.check_origin(other)
    assert str(error.value) == (
        f"{path} holds latents made with other words: codec.weights is '0123' there, '4567' here; go back to that"
        " value, or encode into another dataset.path"
    )
    with pytest.raises(UserError, match=r"dataset\.records is None there, 7 here"):
        dataset.check_origin({**ORIGIN, "dataset": {**ORIGIN["dataset"], "records": 7}})
    shutil.rmtree(path)
    with pytest.raises(UserError, match=r"^no latents in "):
        dataset.check_origin(ORIGIN)


def test_latents_of_latents_are_refused() -> None:
    with pytest.raises(UserError, match=r"^dataset.of must name the dataset of images, not latents again$"):
        Dataset("a", {"name": "latents", "path": "b", "of": OF})
    with pytest.raises(UserError, match=r"^unknown config key 'dataset.of.clases'; did you mean 'classes'\?$"):
        Dataset("a", {**OF, "clases": 3})
