"""Pixels of image files mean what a viewer shows: range of 12, 16 and more bits, which side is up, what is clear."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from flexidit_jax.data.corrupt import Corrupt
from flexidit_jax.data.folder import Dataset
from flexidit_jax.data.imagenet import _Crops
from flexidit_jax.data.photos import photo

RAMP = np.linspace(0, 65535, 6).round().astype(np.uint16)[None].repeat(6, 0)


def saved(image: Image.Image, kind: str, **words: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **words)
    return file.getvalue()


def tiff(values: np.ndarray, bits: int, order: str = "<", sample: int = 1, black: int = 1) -> bytes:
    """An uncompressed grey TIFF of 6 x 6 samples, the bytes of `values`.

    Args:
      sample: 1 for unsigned, 2 for signed.
      black: 1 where zero is black, 0 where it is white.
    """
    content = values.tobytes()
    tags = {256: 6, 257: 6, 258: bits, 259: 1, 262: black, 273: 8, 277: 1, 278: 6, 279: len(content), 339: sample}
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags.items())
    magic = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8 + len(content))
    return magic + content + struct.pack(f"{order}H", len(tags)) + entries + bytes(4)


def twelve(values: np.ndarray) -> np.ndarray:
    """Rows of 12-bit numbers as bytes: two numbers in three of them."""
    a, b = values[:, ::2].astype(np.int64), values[:, 1::2].astype(np.int64)
    return np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], -1).astype(np.uint8).reshape(len(values), -1)


@pytest.mark.parametrize(
    "content",
    [
        saved(Image.fromarray(RAMP), "PNG"),
        saved(Image.fromarray(RAMP), "TIFF"),
        saved(Image.fromarray(RAMP), "PPM"),  # which Pillow opens as mode I
        tiff(RAMP.astype(">u2"), 16, ">"),
        tiff(twelve(RAMP >> 4), 12),
        tiff(65535 - RAMP, 16, black=0),
        tiff((255 - RAMP // 257).astype(np.uint8), 8, black=0),
    ],
    ids=["png", "tiff", "pgm", "tiff of the other order", "tiff of 12 bits", "white is zero", "white is zero, 8 bits"],
)
def test_more_than_8_bits_are_scaled(content: bytes) -> None:
    x = photo(content, 0, 6, "a")["x"]
    np.testing.assert_allclose(x, np.broadcast_to(np.linspace(-1, 1, 6)[:, None], x.shape), atol=1 / 255)
    assert (x.min(), x.max()) == (-1, 1)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (saved(Image.fromarray(RAMP / np.float32(65535)), "TIFF"), "float"),
        (saved(Image.fromarray(RAMP.astype(np.int32)), "TIFF"), "signed or 32-bit"),
        (tiff(RAMP.astype("<i2"), 16, sample=2), "signed or 32-bit"),
    ],
    ids=["float", "32 bits", "signed"],
)
def test_pixels_without_a_range_are_named(content: bytes, kind: str) -> None:
    with pytest.raises(Corrupt) as caught:
        photo(content, 0, 6, "scan.tif")
    assert str(caught.value) == (
        f"scan.tif ({kind} pixels, of which none is known to be white; save it with 8 or 16 bits)"
    )


#: red, green over blue, white: the corners of an upright picture
UPRIGHT = np.repeat(
    np.repeat(np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8), 8, 0), 8, 1
)
#: how the upright picture lies in a file of that orientation (EXIF 2.3, 4.6.4 A)
LYING = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.transpose(1, 0, 2),
    6: np.rot90(UPRIGHT),
    7: np.rot90(UPRIGHT, 2).transpose(1, 0, 2),
    8: np.rot90(UPRIGHT, -1),
}


def oriented(orientation: int, more: bytes = b"") -> bytes:
    """An EXIF block, little-endian; `more` is a second entry, of a number above that of the orientation."""
    entries = struct.pack("<HHIHH", 274, 3, 1, orientation, 0) + more
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries) // 12) + entries + bytes(4)


def from_folder(folder: Path, name: str, content: bytes) -> np.ndarray:
    """The record of the only image of a folder, as bytes."""
    (folder / "class").mkdir(parents=True, exist_ok=True)
    (folder / "class" / name).write_bytes(content)
    [record] = Dataset(path=str(folder), classes=1, size=16).source()
    return ((record["x"][0] + 1) * 127.5).round().astype(int)


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", LYING)
def test_a_folder_is_turned_upright_and_imagenet_is_not(orientation: int, kind: str, tmp_path: Path) -> None:
    lossless = {"jpeg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(kind, {})
    exif = Image.Exif()
    exif[274] = orientation
    content = saved(Image.fromarray(LYING[orientation]), kind, exif=exif, **lossless)
    np.testing.assert_allclose(from_folder(tmp_path, f"a.{kind}", content), UPRIGHT, atol=3)
    if kind == "jpeg":
        [record] = _Crops([{"image": content, "label": 0, "file_name": "a"}], 16)
        np.testing.assert_allclose((record["x"][0] + 1) * 127.5, LYING[orientation], atol=3)


def test_a_deep_grey_is_turned_too(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 16).round().astype(np.uint16)[None].repeat(16, 0)
    found = from_folder(tmp_path, "a.png", saved(Image.fromarray(ramp), "PNG", exif=oriented(6)))
    np.testing.assert_allclose(found, np.broadcast_to((ramp.T / 257)[..., None], found.shape), atol=0.5)


def test_what_else_is_odd_in_the_exif_does_not_count(tmp_path: Path) -> None:
    wrong = struct.pack("<HHIf", 306, 11, 1, 7.5)  # a date that is a number
    content = saved(Image.fromarray(LYING[6]), "JPEG", quality=100, subsampling=0, exif=oriented(6, wrong))
    with pytest.raises(AttributeError):
        ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    np.testing.assert_allclose(from_folder(tmp_path, "a.jpg", content), UPRIGHT, atol=3)
    cut = saved(Image.fromarray(UPRIGHT), "JPEG", quality=100, subsampling=0, exif=b"Exif\0\0no TIFF at all")
    np.testing.assert_allclose(from_folder(tmp_path, "a.jpg", cut), UPRIGHT, atol=3)
    for block in (b"Exif\0\0no TIFF at all", b"Exif\0\0II*\0"):
        damaged = saved(Image.fromarray(UPRIGHT), "PNG", exif=block)
        np.testing.assert_allclose(from_folder(tmp_path / "png", "a.png", damaged), UPRIGHT, atol=3)


def clear(mode: str) -> Image.Image:
    """Red, or black where there is no colour, half of it transparent; as a picture of that mode."""
    rgba = Image.new("RGBA", (16, 16), (255, 0, 0, 255) if mode != "LA" else (0, 0, 0, 255))
    rgba.paste((0, 255, 0, 0) if mode != "LA" else (90, 90, 90, 0), (0, 0, 8, 16))
    return rgba.quantize(4) if mode == "P" else rgba.convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGBA", "png"), ("LA", "png"), ("P", "png"), ("RGBA", "gif"), ("RGBA", "tiff")]
)
def test_what_is_transparent_is_white(mode: str, kind: str, tmp_path: Path) -> None:
    found = from_folder(tmp_path, f"a.{kind}", saved(clear(mode), kind))
    np.testing.assert_array_equal(found[:, :8], np.full((16, 8, 3), 255))
    np.testing.assert_array_equal(found[:, 8:], np.broadcast_to((255 * (mode != "LA"), 0, 0), (16, 8, 3)))


def test_one_grey_or_colour_is_transparent_and_half_is_half(tmp_path: Path) -> None:
    deep = np.full((16, 16), 30000, np.uint16)
    deep[:, :8] = 30001  # the same in 8 bits
    found = from_folder(tmp_path, "a.png", saved(Image.fromarray(deep), "PNG", transparency=30001))
    assert (found[:, :8].min(), found[:, 8:].max()) == (255, round(30000 / 257))
    found = from_folder(tmp_path, "a.png", saved(Image.fromarray(UPRIGHT), "PNG", transparency=(0, 0, 255)))
    np.testing.assert_array_equal(found, np.where((UPRIGHT == (0, 0, 255)).all(-1, keepdims=True), 255, UPRIGHT))
    found = from_folder(tmp_path, "a.png", saved(Image.new("RGBA", (16, 16), (0, 0, 0, 128)), "PNG"))
    assert np.unique(found).tolist() == [127]


@pytest.mark.parametrize("mode", ["CMYK", "L", "P", "RGBA", "RGB"])
def test_imagenet_is_read_as_pillow_converts(mode: str) -> None:
    image = clear(mode) if mode in ("P", "RGBA") else Image.fromarray(UPRIGHT).convert(mode)
    content = saved(image, "PNG" if mode in ("P", "RGBA") else "JPEG")
    [record] = _Crops([{"image": content, "label": 0, "file_name": "a"}], 16)
    published = np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) / np.float32(127.5) - 1
    np.testing.assert_array_equal(record["x"][0], published)
