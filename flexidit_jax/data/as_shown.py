"""What the pixels of an image file mean, before the crop: which value is white, which side is up, what is clear.

Pillow's own conversion to RGB clips whatever has more than 8 bits, turns nothing and drops transparency.
"""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image

_ORIENTATION, _TURN = ExifTags.Base.Orientation.value, Image.Transpose
_TURNS = {
    2: _TURN.FLIP_LEFT_RIGHT,
    3: _TURN.ROTATE_180,
    4: _TURN.FLIP_TOP_BOTTOM,
    5: _TURN.TRANSPOSE,
    6: _TURN.ROTATE_270,
    7: _TURN.TRANSVERSE,
    8: _TURN.ROTATE_90,
}
_ON_ITS_SIDE = {_TURN.TRANSPOSE, _TURN.ROTATE_270, _TURN.TRANSVERSE, _TURN.ROTATE_90}
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF's tags
_WHITE_IS_ZERO = 0  # of the second
_SIXTEEN_BITS = ("PNG", "PPM")  # formats whose mode "I" holds 0..65535; a TIFF's holds any integers


def in_8_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel: grey of 16 (of a TIFF also 12) scaled so that white is 255, any other as it is.

    Raises:
      ValueError: float, signed or 32-bit pixels, of which no value is known to be white.
    """
    if image.mode == "F" or (image.mode == "I" and image.format not in _SIXTEEN_BITS):
        kind = "float" if image.mode == "F" else "signed or 32-bit"
        raise ValueError(f"{kind} pixels, of which none is known to be white; save it with 8 or 16 bits")
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image).astype(np.int64)  # decodes it, after which `info` is whole
    tags = getattr(image, "tag_v2", {})
    [bits] = tags.get(_BITS_PER_SAMPLE, (16,))
    white = 2**bits - 1
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # which Pillow turns round in 8 bits, and not in 16
        values = white - values
    grey = Image.fromarray(((values * 255 + white // 2) // white).astype(np.uint8))
    clear = image.info.get("transparency")  # one grey, as PNG has it
    return grey if clear is None else Image.merge("LA", (grey, Image.fromarray(255 * np.uint8(values != clear))))


def turn_of(image: Image.Image) -> Image.Transpose | None:
    """What turns an image upright as its EXIF says; None where nothing has to be done, or nothing says so."""
    try:
        return _TURNS.get(image.getexif().get(_ORIENTATION))
    except Exception:  # Pillow's and struct's: a damaged block of a sound photo
        return None


def turned_on_its_side(image: Image.Image) -> bool:
    """Whether a viewer shows an image's columns as rows, though its size does not say so; as its header tells."""
    if image.format == "PNG" and "exif" not in image.info:  # which Pillow would look for behind the pixels
        return False
    if image.format == "TIFF":  # whose size is that of what is shown
        return False
    return turn_of(image) in _ON_ITS_SIDE


def as_shown(image: Image.Image) -> Image.Image:
    """As a viewer shows it: `in_8_bits`, turned upright as its EXIF says, what is transparent laid over white.

    Only the orientation is read, so that what else is odd in the EXIF of a sound photo does not count
    (`ImageOps.exif_transpose` writes all of it anew, and raises).
    """
    image.load()  # a TIFF turns itself then
    turn = turn_of(image)
    image = in_8_bits(image)
    image = image if turn is None else image.transpose(turn)
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
