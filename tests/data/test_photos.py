"""How large a picture may be: its header tells, and one that is too large is named with the key that admits it."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from flexidit_jax.common.errors import UserError
from flexidit_jax.data.corrupt import Corrupt
from flexidit_jax.data.photos import MAX_PIXELS, Photos, photo


def header(width: int, height: int) -> bytes:
    """A PNG that ends before its pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    start = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + start + chunk(b"IDAT", b"")


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's, of the whole process."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", MAX_PIXELS // 2)


def png(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(file, "PNG")
    return file.getvalue()


def test_an_image_that_is_too_large_is_named_with_its_key() -> None:
    """By its header alone: this one has no pixels."""
    with warnings.catch_warnings(), pytest.raises(Corrupt) as caught:
        warnings.simplefilter("error")
        photo(header(16000, 15000), 0, 8, "huge.png")
    assert str(caught.value) == ("huge.png (240,000,000 pixels, more than dataset.max_pixels=178956970 admits)")
    with pytest.raises(Corrupt, match=r"^a \(400 pixels, more than dataset\.max_pixels=399 admits\)$"):
        photo(png(20), 0, 8, "a", max_pixels=399)
    assert photo(png(20), 0, 8, "a", max_pixels=400)["x"].shape == (1, 8, 8, 3)


def test_a_higher_limit_is_higher_than_pillows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert photo(png(20), 0, 8, "a", max_pixels=400)["x"].shape == (1, 8, 8, 3)
    assert Image.MAX_IMAGE_PIXELS == 400  # never lower than it was
    photo(png(10), 0, 8, "a", max_pixels=200)
    assert Image.MAX_IMAGE_PIXELS == 400


def test_what_pillow_hands_to_other_programs_is_not_opened() -> None:
    drawing = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    assert Image.open(io.BytesIO(drawing)).format == "EPS"
    with pytest.raises(Corrupt, match=r"^a\.png \(not an image\)$"):
        photo(drawing, 0, 8, "a.png")


def test_a_limit_is_positive() -> None:
    with pytest.raises(UserError, match=r"^dataset\.max_pixels must be positive, got 0$"):
        Photos(max_pixels=0)
    np.testing.assert_equal(Photos().max_pixels, MAX_PIXELS)


def test_a_line_of_pixels_is_not_enlarged_to_the_crop() -> None:
    for size, sides in (((3000, 1), "3000 x 1"), ((1, 3000), "1 x 3000")):
        data = io.BytesIO()
        Image.new("RGB", size).save(data, "PNG")
        with pytest.raises(Corrupt, match=rf"^a \({sides} pixels, 196,608,000 where they cover the crop\)$"):
            photo(data.getvalue(), 0, 256, "a")
        assert photo(data.getvalue(), 0, 4, "a")["x"].shape == (1, 4, 4, 3)
