"""Pixels of image files mean what a viewer shows: the range of 12, 16 and more bits."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from flexidit_jax.data.intact import Corrupt
from flexidit_jax.data.photos import photo

RAMP = np.linspace(0, 65535, 6).round().astype(np.uint16)[None].repeat(6, 0)


def saved(image: Image.Image, kind: str, **words: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **words)
    return file.getvalue()


def tiff(values: np.ndarray, bits: int, order: str = "<", sample: int = 1) -> bytes:
    """An uncompressed grey TIFF of 6 x 6 samples, the bytes of `values`; `sample` is 1 for unsigned, 2 for signed."""
    content = values.tobytes()
    tags = {256: 6, 257: 6, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: 6, 279: len(content), 339: sample}
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
    ],
    ids=["png", "tiff", "pgm", "tiff of the other order", "tiff of 12 bits"],
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
