"""Sets of images from files of others; what would need a guess is refused."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexidit_jax.common.errors import UserError
from flexidit_jax.data.image_set import ImageSet, open_images

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 6, 8, 3), dtype=np.uint8)


def folder(path: Path, images: np.ndarray = IMAGES, ending: str = ".png") -> Path:
    for i, image in enumerate(images):
        file = path / f"{i % 2}" / f"{i:03d}{ending}"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(file)
    return path


def every(images: ImageSet, size: int, first: int = 0) -> np.ndarray:
    return np.concatenate(list(images.batches(size, first)))


@pytest.mark.parametrize("size", [1, 3, 7, 50])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_array(tmp_path: Path, save: object, size: int) -> None:
    save(tmp_path / "a.npz", arr_0=IMAGES, arr_1=np.arange(7), mu=np.ones(3))
    images = open_images(tmp_path / "a.npz")
    assert (images.count, images.shape, images.remarks) == (7, (6, 8, 3), ())
    np.testing.assert_array_equal(images.labels, np.arange(7))
    assert [len(batch) for batch in images.batches(size)] == [len(IMAGES[i : i + size]) for i in range(0, 7, size)]
    np.testing.assert_array_equal(every(images, size), IMAGES)
    np.testing.assert_array_equal(every(images, size, 2), IMAGES[2:])
    assert images.sha256 == hashlib.sha256((tmp_path / "a.npz").read_bytes()).hexdigest()


@pytest.mark.parametrize("size", [1, 3, 50])
def test_pictures_in_the_order_of_their_names(tmp_path: Path, size: int) -> None:
    images = open_images(folder(tmp_path / "a"))
    (tmp_path / "a" / ".hidden.png").write_bytes(b"")
    (tmp_path / "a" / "notes.txt").write_text("")
    assert (images.count, images.shape, images.labels, images.lossless) == (7, (6, 8, 3), None, True)
    np.testing.assert_array_equal(every(images, size), IMAGES[[0, 2, 4, 6, 1, 3, 5]])
    np.testing.assert_array_equal(every(images, size, 5), IMAGES[[3, 5]])


def test_the_hash_of_a_folder_is_that_of_names_and_bytes(tmp_path: Path) -> None:
    a, b = (folder(tmp_path / name) for name in "ab")
    assert open_images(a).sha256 == open_images(b).sha256
    before = open_images(b).sha256
    (b / "0" / "000.png").rename(b / "0" / "001.png")
    renamed = open_images(b).sha256
    Image.fromarray(IMAGES[3]).save(b / "0" / "001.png")
    assert len({before, renamed, open_images(b).sha256}) == 3


def test_what_generate_leaves(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for shard in range(3):
        np.save(tmp_path / "shards" / f"{shard:06d}.npy", IMAGES[3 * shard : 3 * shard + 3])
    images = open_images(tmp_path)
    assert (images.count, images.shape) == (7, (6, 8, 3))
    assert [len(batch) for batch in images.batches(2)] == [2, 2, 2, 1]
    for size in (2, 4, 50):
        for first in (0, 2, 3, 5):
            np.testing.assert_array_equal(every(images, size, first), IMAGES[first:])
    np.savez(tmp_path / "samples.npz", arr_0=IMAGES[:5], arr_1=np.arange(5))
    assert open_images(tmp_path).count == 5
    (tmp_path / "samples.npz").unlink()
    (tmp_path / "shards" / "000001.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match=r"000001\.npy is no whole \.npy file"):
        open_images(tmp_path)


def test_an_unfinished_folder_is_its_first_images(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    shards = [tmp_path / "shards" / f"{shard:06d}.npy" for shard in range(3)]
    for shard in (0, 2):
        np.save(shards[shard], IMAGES[3 * shard : 3 * shard + 3])
    (tmp_path / "manifest.json").write_text('{"num": 1000, "shard": 3}')
    with pytest.raises(UserError) as caught:
        open_images(tmp_path)
    assert str(caught.value) == (
        f"{shards[1]} is not there, and 000002.npy is, whose images would take its places; the same --mode=generate"
        " makes it"
    )
    np.save(shards[1], IMAGES[3:5])
    with pytest.raises(UserError) as caught:
        open_images(tmp_path)
    assert str(caught.value) == (
        f"{shards[1]} holds 2 images, and 000000.npy 3; the same --mode=generate makes it whole"
    )
    shards[2].unlink()
    images = open_images(tmp_path)
    assert (images.count, images.remarks, images.lossless) == (5, ("the first 5 of 1,000 images",), True)
    (tmp_path / "manifest.json").write_text('{"num": 5, "shard": 3}')
    assert open_images(tmp_path).remarks == ()
    shards[0].unlink()
    with pytest.raises(UserError, match=r"000000\.npy is not there, and 000001\.npy is"):
        open_images(tmp_path)


def test_jpegs_are_said(tmp_path: Path) -> None:
    folder(tmp_path, IMAGES[:1])
    Image.fromarray(IMAGES[1]).save(tmp_path / "0" / "a.png")
    Image.fromarray(IMAGES[2]).save(tmp_path / "0" / "b.jpg")
    assert not open_images(tmp_path).lossless
    assert open_images(tmp_path).remarks == ("1 of 3 images are JPEG, which is lossy",)
    (tmp_path / "0" / "b.jpg").rename(tmp_path / "0" / "b.png")  # a file is what its content says
    assert open_images(tmp_path).remarks == ("1 of 3 images are JPEG, which is lossy",)


def test_pictures_count_as_they_are_stored(tmp_path: Path) -> None:
    folder(tmp_path, IMAGES[:1])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(IMAGES[2]).save(tmp_path / "0" / "b.jpg", exif=exif, quality=100, subsampling=0)
    exif[0x0112] = 1
    Image.fromarray(IMAGES[2]).save(tmp_path / "0" / "c.jpg", exif=exif)
    found = open_images(tmp_path)
    assert found.remarks[-1] == "1 of 3 images would be shown turned, and count as they are stored"
    assert found.shape == IMAGES.shape[1:] and every(found, 3).shape == (3, *IMAGES.shape[1:])


def test_folders_one_after_the_other_are_said(tmp_path: Path) -> None:
    folder(tmp_path, IMAGES[:1])
    assert open_images(tmp_path).remarks == ()
    folder(tmp_path, IMAGES[:2])
    said = "images of 2 folders, one after the other; parts of an Inception score are of few"
    assert open_images(tmp_path).remarks == (said,)


def test_a_crop_is_for_photographs_of_any_size(tmp_path: Path) -> None:
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    Image.fromarray(IMAGES[1].repeat(3, 0)).save(tmp_path / "b.png")
    Image.fromarray(IMAGES[2, ..., 0]).save(tmp_path / "c.png")  # grey, as a few photographs of any set are
    assert open_images(tmp_path, "square", 6).crop == "square 6"
    square = every(open_images(tmp_path, "square", 6), 5)
    assert square.shape == (3, 6, 6, 3)
    np.testing.assert_array_equal(square[0], IMAGES[0, :, 1:7])
    np.testing.assert_array_equal(square[2], IMAGES[2, :, 1:7, :1].repeat(3, -1))
    half = Image.fromarray(IMAGES[0, :, 1:7]).resize((3, 3), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(every(open_images(tmp_path, "square", 3), 5)[0], half)
    assert np.abs(every(open_images(tmp_path, "adm", 3), 5)[0] - np.float32(half)).max() > 3  # halved by boxes first


def saved(path: Path, image: Image.Image, **words: object) -> None:
    image.save(path / "b.png", **words)


def sixteen_bits_of_colour(path: Path) -> None:
    """What Pillow reads as 8 bits and cannot write: a PNG whose header alone says 16."""
    saved(path, Image.fromarray(IMAGES[0]))
    data = bytearray((path / "b.png").read_bytes())
    data[24] = 16
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (path / "b.png").write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: saved(path, Image.fromarray(IMAGES[0, ..., 0])), "is greyscale; features are of colour images"),
        (
            lambda path: saved(path, Image.fromarray(IMAGES[0, ..., 0].astype(np.uint16))),
            "has more than 8 bits a channel, which no evaluator reads; save it with 8",
        ),
        (sixteen_bits_of_colour, "has more than 8 bits a channel"),
        (lambda path: saved(path, Image.fromarray(IMAGES[0]).convert("RGBA")), "is partly transparent; save it as RGB"),
        (lambda path: saved(path, Image.fromarray(IMAGES[0]), transparency=(1, 2, 3)), "is partly transparent"),
        (
            lambda path: saved(path, Image.fromarray(IMAGES[0, :4])),
            "is 8x4 and a.png 8x6; all must be of one size, or name a crop: adm, square",
        ),
        (lambda path: (path / "b.png").write_bytes(b""), "is no picture"),
        (lambda path: (path / "b.png").write_bytes((path / "a.png").read_bytes()[:100]), "cannot be read ("),
        (
            lambda path: saved(
                path, Image.fromarray(IMAGES[0]), save_all=True, append_images=[Image.fromarray(IMAGES[1])]
            ),
            "has 2 frames; save each as a picture",
        ),
        (
            lambda path: Image.fromarray(IMAGES[0]).convert("CMYK").save(path / "b.tif"),
            "is a picture of mode CMYK; save it as RGB",
        ),
    ],
)
def test_a_picture_that_is_not_what_it_should_be(tmp_path: Path, spoil: object, said: str) -> None:
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    spoil(tmp_path)
    with pytest.raises(UserError) as caught:
        every(open_images(tmp_path), 3)
    if not said.startswith("cannot be read"):  # all else is seen before anything is done
        with pytest.raises(UserError):
            open_images(tmp_path)
    [spoilt] = tmp_path.glob("b.*")
    assert str(caught.value).startswith(f"{spoilt} {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (IMAGES[..., :1], "got uint8 [7, 6, 8, 1]; repeat the channel of greyscale images three times"),
        (IMAGES / 255, "got float64 [7, 6, 8, 3]"),
        (IMAGES[0], "got uint8 [6, 8, 3]"),
        (IMAGES[:0], "got uint8 [0, 6, 8, 3]"),
    ],
)
def test_an_array_that_is_no_images(tmp_path: Path, array: np.ndarray, said: str) -> None:
    np.savez(tmp_path / "a.npz", arr_0=array)
    with pytest.raises(UserError) as caught:
        open_images(tmp_path / "a.npz")
    assert str(caught.value) == f"arr_0 of {tmp_path / 'a.npz'} must be uint8 [N, H, W, 3], {said}"


def test_refusals(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", mu=np.ones(3), sigma=np.ones((3, 3)))
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.pt").touch()
    for path, said in [
        ("a.npz", "holds mu, sigma, and no images, which are its arr_0"),
        ("a.pt", "holds no images; a folder of PNG files would do, or a .npz file with arr_0"),
        ("empty", "holds no pictures; samples are PNG files at any depth, or a .npz file with arr_0"),
    ]:
        with pytest.raises(UserError) as caught:
            open_images(tmp_path / path)
        assert str(caught.value) == f"{tmp_path / path} {said}"
    with pytest.raises(UserError) as caught:
        open_images(tmp_path / "none")
    said = f"there is no {tmp_path / 'none'}; images are a folder of PNG files, or a .npz file with arr_0"
    assert str(caught.value) == said
    np.savez(tmp_path / "a.npz", arr_0=IMAGES)
    with pytest.raises(UserError, match="holds an array of 8x6 pixels, which is not cropped to 3"):
        open_images(tmp_path / "a.npz", "square", 3)
    with pytest.raises(UserError, match="a crop is one of adm, square with its side, got 'squar' and 3"):
        open_images(folder(tmp_path / "b"), "squar", 3)
