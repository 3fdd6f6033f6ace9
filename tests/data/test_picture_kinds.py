"""Which files are pictures: as Pillow has it, but for films, drawings and names without a reader."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image, features

from flexidit_jax.data.picture_kinds import endings, formats

BEFORE = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def test_all_that_pillow_reads_but_what_is_no_picture() -> None:
    assert set(endings()) >= BEFORE | {".jfif", ".jp2", ".mpo", ".tga", ".apng"}
    assert (".avif" in endings()) == features.check("avif")
    assert not {".pdf", ".eps", ".ps", ".mpg", ".wmf", ".h5", ".fli", ".txt", ".svg", ".heic"} & set(endings())
    assert not {"EPS", "MPEG"} & set(formats())  # not under another ending either


def test_heif_is_read_where_its_package_registers_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pillow_heif").mkdir()
    (tmp_path / "pillow_heif" / "__init__.py").touch()
    (tmp_path / "pillow_heif" / "HeifImagePlugin.py").write_text(
        "from PIL import Image\n\n"
        "Image.register_open('HEIF', lambda *_: None)\n"
        "Image.register_extensions('HEIF', ['.heic', '.heif'])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("OPEN", "ID", "EXTENSION"):
        monkeypatch.setattr(Image, name, getattr(Image, name).copy())
    try:
        formats.cache_clear()
        assert "HEIF" in formats() and {".heic", ".heif"} <= set(endings())
    finally:
        formats.cache_clear()
        for name in ("pillow_heif", "pillow_heif.HeifImagePlugin"):
            sys.modules.pop(name, None)
