"""Which files are pictures: what Pillow opens here, but for what is no picture or is handed to another program."""

from __future__ import annotations

from contextlib import suppress
from functools import cache

from PIL import Image

#: films, drawings that another program would have to draw, and measurements for which Pillow has a name alone
_NO_PICTURES = {"FLI", "MPEG", "EPS", "WMF", "BUFR", "GRIB", "HDF5"}
#: of two pictures for two eyes; Pillow opens it as the JPEG that it also is
_OPENED_AS_JPEG = "MPO"


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats; HEIF is one where the package pillow-heif is installed."""
    with suppress(ImportError):
        import pillow_heif.HeifImagePlugin  # noqa: F401  registers itself
    Image.init()
    return tuple(sorted(Image.OPEN.keys() - _NO_PICTURES))


def endings() -> tuple[str, ...]:
    """What names of picture files end in, in small letters."""
    known = {*formats(), _OPENED_AS_JPEG}
    return tuple(sorted(ending for ending, kind in Image.registered_extensions().items() if kind in known))
