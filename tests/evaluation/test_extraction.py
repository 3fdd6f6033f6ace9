"""From images of others to numbers, with features that are pixels."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexidit_jax.common.errors import STOPPED, UserError
from flexidit_jax.data.image_set import open_images
from flexidit_jax.evaluation import extraction
from flexidit_jax.evaluation.extraction import Extractor, Halted
from flexidit_jax.evaluation.reference import Reference
from flexidit_jax.metrics.frechet import Metric as Frechet
from flexidit_jax.metrics.moments import BLOCK, Moments, moments_of
from flexidit_jax.metrics.precision_recall import Metric as PrecisionRecall
from flexidit_jax.metrics.score import Images
from flexidit_jax.metrics.statistics_file import write_statistics

RNG = np.random.default_rng(0)
SAMPLES = RNG.integers(0, 200, (40, 4, 4, 3), dtype=np.uint8)
REFERENCE = RNG.integers(30, 256, (50, 4, 4, 3), dtype=np.uint8)


class Pixels:
    """Features that are a few pixels; counts the images it has seen."""

    def __init__(self) -> None:
        self.protocol = {"convention": "pixels", "weights_sha256": "67"}
        self.seen = -1  # the probe

    def extract(self, images: np.ndarray) -> dict[str, np.ndarray]:
        self.seen += len(images)
        flat = images.reshape(len(images), -1).astype(np.float32) / 255
        return {"pool": flat[:, :6], "spatial": flat[:, 6:10], "logits": flat[:, 10:15]}


@pytest.fixture
def pixels() -> Pixels:
    return Pixels()


@pytest.fixture
def extractor(pixels: Pixels) -> Extractor:
    return Extractor("inception", pixels, batch=7)


def saved(path: Path, images: np.ndarray, **more: np.ndarray) -> Path:
    np.savez(path, arr_0=images, **more)
    return path


def test_numbers_of_files_alone(tmp_path: Path, extractor: Extractor) -> None:
    labels = np.arange(40) % 4
    samples = extractor.kept(open_images(saved(tmp_path / "s.npz", SAMPLES, arr_1=labels)), tmp_path / "s.features.npz")
    np.testing.assert_array_equal(samples["labels"], labels)
    metrics = [Frechet(), PrecisionRecall()]
    opened = Reference.open(saved(tmp_path / "r.npz", REFERENCE))
    reference = extractor.reference(opened, tmp_path, True, extractor.widths)
    found = [score.metric for metric in metrics for score in metric.scores(Images(samples), reference, "inception")]
    assert found == ["fid", "sfid", "precision", "recall"]


def test_features_are_taken_once_and_go_on_after_a_kill(
    tmp_path: Path, extractor: Extractor, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, path = open_images(saved(tmp_path / "s.npz", SAMPLES)), tmp_path / "f.npz"
    extract = pixels.extract

    def killed(batch: np.ndarray) -> dict[str, np.ndarray]:
        if pixels.seen >= 21:
            raise KeyboardInterrupt
        return extract(batch)

    monkeypatch.setattr(pixels, "extract", killed)
    with pytest.raises(KeyboardInterrupt):
        extractor.kept(images, path)
    monkeypatch.setattr(pixels, "extract", extract)
    kept = extractor.kept(images, path)
    assert pixels.seen == 40
    np.testing.assert_array_equal(kept["pool"], extract(SAMPLES)["pool"])
    assert extractor.kept(images, path).count == 40 and pixels.seen == 80  # our own call above, and no other
    with pytest.raises(UserError) as caught:
        extractor.kept(open_images(saved(tmp_path / "r.npz", REFERENCE)), path)
    assert str(caught.value) == f"{path} keeps features of other images, or of another extractor; name another file"


def test_another_crop_is_another_set(tmp_path: Path, extractor: Extractor) -> None:
    (tmp_path / "photos").mkdir()
    Image.fromarray(SAMPLES[0].repeat(2, 0)).save(tmp_path / "photos" / "a.png")
    cut, other = (extractor.words(open_images(tmp_path / "photos", crop, 4)) for crop in ("adm", "square"))
    assert {key for key in cut if cut[key] != other[key]} == {"crop"}


def test_moments_go_on_after_a_kill_to_the_same_bits(
    tmp_path: Path, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extraction, "RECORDED", BLOCK)
    many = RNG.integers(0, 256, (2 * BLOCK + 100, 2, 3, 3), dtype=np.uint8)
    images, extractor = open_images(saved(tmp_path / "a.npz", many)), Extractor("inception", pixels, batch=300)
    extract = pixels.extract

    def killed(batch: np.ndarray) -> dict[str, np.ndarray]:
        if pixels.seen >= BLOCK + 400:
            raise KeyboardInterrupt
        return extract(batch)

    monkeypatch.setattr(pixels, "extract", killed)
    with pytest.raises(KeyboardInterrupt):
        extractor.moments(images, tmp_path / "m.npz")
    monkeypatch.setattr(pixels, "extract", extract)
    monkeypatch.setattr(extraction, "RECORDED", 9 * BLOCK)  # but for the end
    before = pixels.seen
    found = extractor.moments(images, tmp_path / "m.npz")
    assert list(found) == ["pool", "spatial"] and pixels.seen - before == BLOCK + 100
    expected = moments_of([extract(many)["pool"]])
    assert found["pool"].moments.count == len(many)
    np.testing.assert_array_equal(found["pool"].moments.scatter, expected.scatter)
    before = pixels.seen
    again = extractor.moments(images, tmp_path / "m.npz")["spatial"].moments
    assert pixels.seen - before == 100
    np.testing.assert_array_equal(again.mean, found["spatial"].moments.mean)


def test_features_of_other_images_or_extractors_lie_in_other_files(
    tmp_path: Path, extractor: Extractor, pixels: Pixels
) -> None:
    images = open_images(saved(tmp_path / "s.npz", SAMPLES))
    assert extractor.widths_in(tmp_path / "f", images) == {"pool": 6, "spatial": 4, "logits": 5}
    pixels.seen = 0
    extractor.kept_in(tmp_path / "f", images)
    pixels.extract = None  # whatever runs the network now fails
    again = Extractor("inception", pixels)
    assert again.kept_in(tmp_path / "f", images).count == 40 and pixels.seen == 40
    assert again.widths_in(tmp_path / "f", images) == {"pool": 6, "spatial": 4, "logits": 5}
    del pixels.extract
    pixels.protocol = {**pixels.protocol, "convention": "other"}
    for other in (again, Extractor("dinov2", pixels)):
        other.kept_in(tmp_path / "f", images)
    assert len([*(tmp_path / "f").iterdir()]) == 3 and pixels.seen == 122  # two probes among them


def test_kept_features_that_are_damaged_are_taken_again_once_deleted(tmp_path: Path, extractor: Extractor) -> None:
    images = open_images(saved(tmp_path / "s.npz", SAMPLES))
    path = extractor.kept_in(tmp_path / "f", images).path
    path.write_bytes(path.read_bytes()[:-9])
    for read in (extractor.kept_in, extractor.widths_in):
        with pytest.raises(UserError, match=r"npz file \(.*\); .*; delete it, and the features are taken again$"):
            read(tmp_path / "f", images)


def test_what_is_no_number_is_said_with_its_image_and_not_kept(
    tmp_path: Path, extractor: Extractor, pixels: Pixels, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract = pixels.extract

    def spoilt(images: np.ndarray) -> dict[str, np.ndarray]:
        found = extract(images)
        found["logits"][-1, 2] = np.nan if pixels.seen == 14 else 0
        return found

    monkeypatch.setattr(pixels, "extract", spoilt)
    with pytest.raises(UserError) as caught:
        extractor.kept(open_images(saved(tmp_path / "s.npz", SAMPLES)), tmp_path / "f.npz")
    assert str(caught.value) == "the features of image 13 hold NaN or infinity, 1 image(s) in all"
    assert not (tmp_path / "f.npz").exists()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, STOPPED), (signal.SIGINT, 130)])
def test_a_signal_lets_it_end_in_a_record(
    tmp_path: Path, pixels: Pixels, monkeypatch: pytest.MonkeyPatch, number: int, status: int
) -> None:
    many = RNG.integers(0, 256, (BLOCK + 300, 2, 3, 3), dtype=np.uint8)
    images, extractor = open_images(saved(tmp_path / "a.npz", many)), Extractor("inception", pixels, batch=600)
    extract = pixels.extract

    def signalled(batch: np.ndarray) -> dict[str, np.ndarray]:
        found = extract(batch)
        if pixels.seen == 1200:
            signal.raise_signal(number)
        return found

    assert extractor.widths  # whose probe is not counted
    monkeypatch.setattr(pixels, "extract", signalled)
    for go, rest in ((extractor.moments, 300), (extractor.kept, 124)):
        pixels.seen = 0
        with pytest.raises(Halted) as caught:
            go(images, tmp_path / "there.npz")
        assert caught.value.status == status
        assert str(caught.value) == "stopped, 1,200 of 1,324 images are done; the same command goes on"
        pixels.seen = 0
        go(images, tmp_path / "there.npz")
        assert pixels.seen == rest
        (tmp_path / "there.npz").unlink()


def test_statistics_count_and_images_beside_them_are_for_those_who_compare(
    tmp_path: Path, extractor: Extractor, pixels: Pixels
) -> None:
    path = tmp_path / "VIRTUAL.npz"
    whole = Moments.of(pixels.extract(REFERENCE)["pool"])
    write_statistics(path, {"pool": whole}, {"features": "inception"}, REFERENCE[:9])
    widths = extractor.widths
    pixels.seen, opened = 0, Reference.open(path)
    found = extractor.reference(opened, tmp_path / "f", False, widths)
    assert (found.gaussian("pool").count, dict(found.features), pixels.seen) == (50, {}, 0)
    found = extractor.reference(opened, tmp_path / "f", True, widths)
    assert (found.gaussian("pool").count, len(found.array("pool")), pixels.seen) == (50, 9, 9)
    [kept] = (tmp_path / "f").iterdir()
    found = extractor.reference(Reference.open(kept), tmp_path, True, widths)
    assert len(found.array("pool")) == 9 and pixels.seen == 9  # features are a reference


class Texts(Pixels):
    """One that embeds texts too."""

    tokenizer_sha256 = "68"

    def text(self, prompts: list[str]) -> np.ndarray:
        self.seen += len(prompts)
        return np.float32([[len(prompt)] * 6 for prompt in prompts])


def test_texts_are_embedded_once(tmp_path: Path) -> None:
    texts = Texts()
    for _ in range(2):
        found = Extractor("clip", texts).prompts_in(tmp_path, ["a", "bcd"])
        np.testing.assert_array_equal(found[:, 0], [1, 3])
    assert texts.seen == 1
    Extractor("clip", texts).prompts_in(tmp_path, ["a", "bce"])
    assert texts.seen == 3
    texts.tokenizer_sha256 = "69"
    Extractor("clip", texts).prompts_in(tmp_path, ["a", "bce"])
    assert texts.seen == 5
