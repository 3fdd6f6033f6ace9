"""Samples as files: one sheet, single pictures, or the arrays that evaluators read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import written_aside


@dataclass(frozen=True)
class Files:
    """The `sample.files` section: what to write.

    Attributes:
      grid: all samples on one sheet.
      images: a PNG each (animated for clips).
      npz: uint8 `arr_0` [N, H, W, C], as ADM's evaluator reads.
    """

    grid: bool = True
    images: bool = False
    npz: bool = False

    def write(self, folder: Path, images: np.ndarray) -> list[str]:
        """Writes uint8 [N, H, W, C] (or clips [N, F, H, W, C]) into `folder`; returns what, in words.

        Raises:
          UserError: the folder cannot be written.
        """
        written = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self.grid:
                _write_sheet(folder / "grid.png", images)
                written.append("grid.png")
            if self.images:
                for i, image in enumerate(images):
                    frames = [picture(frame) for frame in (image if image.ndim == 4 else image[None])]
                    with written_aside(folder / f"{i:06d}.png") as aside:
                        frames[0].save(aside, format="PNG", save_all=len(frames) > 1, append_images=frames[1:])
                written.append(f"000000.png to {len(images) - 1:06d}.png")
            if self.npz:
                with written_aside(folder / "samples.npz") as aside, aside.open("wb") as file:
                    np.savez(file, arr_0=images)
                written.append("samples.npz")
        except OSError as error:
            raise UserError(f"cannot write to {folder} ({error.strerror})") from None
        return written


def write_preview(folder: Path, number: int, images: np.ndarray) -> None:
    """Writes `preview_<number>.png`, images on one sheet.

    Raises:
      UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_sheet(folder / f"preview_{number:05d}.png", images)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror})") from None


def _write_sheet(file: Path, images: np.ndarray) -> None:
    with written_aside(file) as aside:
        contact_sheet(images).save(aside, format="PNG")


def contact_sheet(images: np.ndarray, gap: int = 1, smallest: int = 48) -> Image.Image:
    """uint8 [N, H, W, C] (or the first frames of [N, F, H, W, C]) as one near-square picture.

    Images under `smallest` pixels are enlarged by a whole factor.
    """
    if images.ndim == 5:
        images = images[:, 0]
    n, h, w, c = images.shape
    zoom = max(1, -(-smallest // max(h, w)))
    images = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    h, w = h * zoom + gap, w * zoom + gap
    columns = next((k for k in (10, 8, 5, 4) if n % k == 0 and n // k <= k * 2), int(np.ceil(n**0.5)))
    sheet = np.full((-(-n // columns) * h + gap, columns * w + gap, c), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * h + gap, (i % columns) * w + gap
        sheet[top : top + h - gap, left : left + w - gap] = image
    return picture(sheet)


def picture(image: np.ndarray) -> Image.Image:
    """uint8 [H, W, C] with one or three channels."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
