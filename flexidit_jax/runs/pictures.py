"""Samples as files: one sheet, single pictures, or the arrays that evaluators read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.common.files import written_aside
from flexidit_jax.runs.clips import FORMATS, check_fps, write_clip

#: what is said of pictures: an object a line, `file_name` and `text` as trainers read them
SAYS = "metadata.jsonl"
#: of a clip, evenly spaced from its first to its last, on a sheet
FRAMES = 6
#: what names of JPEGs end in; their quality, with every pixel's own colour; bytes that a comment holds
JPEG, QUALITY, MOST_SAID = (".jpg", ".jpeg"), 95, 65_533


@dataclass(frozen=True)
class Files:
    """The `sample.files` section: what to write.

    Attributes:
      grid: all samples on one sheet, of clips some frames each.
      images: a PNG each (animated for clips).
      npz: uint8 `arr_0` [N, H, W, C], as ADM's evaluator reads.
      clips: a file each of this format, "mp4", "gif" or "webp" (`runs.clips`).
      fps: frames a second of these.
    """

    grid: bool = True
    images: bool = False
    npz: bool = False
    clips: str | None = None
    fps: int = 16

    def __post_init__(self) -> None:
        check_fps(self.fps)
        if self.clips not in (None, *FORMATS):
            raise UserError(f"no sample.files.clips {self.clips!r}{nearest(str(self.clips), FORMATS)}")

    def write(
        self,
        folder: Path,
        images: np.ndarray | Sequence[np.ndarray],
        failed: Sequence[int] = (),
        says: Sequence[Mapping[str, Any]] = (),
    ) -> list[str]:
        """Writes uint8 [N, H, W, C] (or clips [N, F, H, W, C]) into `folder`; returns what, in words.

        Args:
          images: where they have `parts(i)`, the parts of clip i as they are decoded, clips grow by these.
          failed: the samples that are none: crossed out on the sheet, without a PNG, and left out of the array, which
            then holds their numbers as `failed`.
          says: of each what was asked for, JSON-ready: into its PNG and, a line each, into `metadata.jsonl`.

        Raises:
          UserError: the folder cannot be written.
        """
        written = []
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self.clips:
                written += self._write_clips(folder, images, failed)
            images = np.stack([*images]) if hasattr(images, "parts") else images
            if self.grid:
                _write_sheet(folder / "grid.png", images, failed)
                written.append("grid.png")
            if self.images:
                for i, image in enumerate(images):
                    if i in failed:
                        picture_file(folder, i).unlink(missing_ok=True)  # of an earlier start
                        continue
                    write_picture(picture_file(folder, i), image, says[i] if says else {})
                without = f" without {', '.join(map(str, failed))}" if failed else ""
                written.append(f"000000.png to {len(images) - 1:06d}.png{without}")
            if self.npz:
                with written_aside(folder / "samples.npz") as aside, aside.open("wb") as file:
                    sound = {"arr_0": np.delete(images, failed, axis=0), "failed": np.array(failed, int)}
                    np.savez(file, **(sound if failed else {"arr_0": images}))
                written.append("samples.npz")
            if says:
                names = picture_name if self.images else None
                write_says(folder, ((i, one) for i, one in enumerate(says) if i not in failed), names)
                written.append(SAYS)
        except OSError as error:
            raise UserError(f"cannot write to {folder} ({error.strerror})") from None
        return written

    def _write_clips(self, folder: Path, images: Sequence[np.ndarray], failed: Sequence[int]) -> list[str]:
        """A file a clip; an image is a clip of one frame.

        Raises:
          UserError: see `runs.clips.write_clip`.
        """
        for i in range(len(images)):
            file = picture_file(folder, i).with_suffix(f".{self.clips}")
            if i in failed:
                file.unlink(missing_ok=True)  # of an earlier start
            elif hasattr(images, "parts"):
                write_clip(file, images.parts(i), self.fps)
            else:
                write_clip(file, [images[i] if images[i].ndim == 4 else images[i][None]], self.fps)
        return [f"000000.{self.clips} to {len(images) - 1:06d}.{self.clips}"]


def picture_file(folder: Path, number: int) -> Path:
    """The PNG of a picture."""
    return folder / picture_name(number)


def picture_name(number: int) -> str:
    """Its name."""
    return f"{number:06d}.png"


def write_picture(file: Path, image: np.ndarray, says: Mapping[str, Any]) -> None:
    """Writes uint8 [H, W, C], or a clip [F, H, W, C], as PNG; what it `says` a reader of its metadata finds by key.

    Args:
      file: where its name ends in `.jpg` or `.jpeg`, a JPEG of `QUALITY`, whose comment is what it says as JSON.
    """
    frames = [picture(frame) for frame in (image if image.ndim == 4 else image[None])]
    if file.suffix in JPEG:
        comment = json.dumps(says, ensure_ascii=False).encode()
        words = {"comment": comment} if len(comment) <= MOST_SAID else {}
        with written_aside(file) as aside:
            frames[0].convert("RGB").save(aside, format="JPEG", quality=QUALITY, subsampling=0, **words)
        return
    info = PngInfo()
    for key, value in says.items():
        info.add_itxt(key, value if isinstance(value, str) else json.dumps(value))
    with written_aside(file) as aside:
        frames[0].save(aside, format="PNG", save_all=len(frames) > 1, append_images=frames[1:], pnginfo=info)


def write_says(folder: Path, says: Iterable[tuple[int, Mapping[str, Any]]], named: Callable[[int], str] | None) -> None:
    """Writes what pictures say, by their numbers, a JSON object a line.

    Args:
      named: the name of a picture's file, below the folder; None where they are no files.
    """
    with written_aside(folder / SAYS) as aside, aside.open("w", encoding="utf-8") as lines:
        for number, one in says:
            name = {} if named is None else {"file_name": named(number)}
            words = {"text" if key == "prompt" else key: value for key, value in one.items()}
            lines.write(json.dumps({**name, **words}, ensure_ascii=False) + "\n")


def write_preview(folder: Path, number: int, images: np.ndarray, failed: Sequence[int] = ()) -> None:
    """Writes `preview_<number>.png`, images on one sheet, those that failed crossed out.

    Raises:
      UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_sheet(folder / f"preview_{number:05d}.png", images, failed)
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror})") from None


def _write_sheet(file: Path, images: np.ndarray, failed: Sequence[int]) -> None:
    with written_aside(file) as aside:
        contact_sheet(images, failed).save(aside, format="PNG")


def contact_sheet(images: np.ndarray, failed: Sequence[int] = (), gap: int = 1, smallest: int = 48) -> Image.Image:
    """uint8 [N, H, W, C] as one near-square picture, or of clips [N, F, H, W, C] a row each of up to `FRAMES` frames.

    Images under `smallest` pixels are enlarged by a whole factor; in place of those that `failed` is a cross.
    """
    columns = None
    if images.ndim == 5:
        frames = np.linspace(0, images.shape[1] - 1, columns := min(FRAMES, images.shape[1])).round().astype(int)
        images = images[:, frames].reshape(-1, *images.shape[2:])
        failed = [i * columns + k for i in failed for k in range(columns)]
    n, h, w, c = images.shape
    zoom = max(1, -(-smallest // max(h, w)))
    images = images.repeat(zoom, axis=1).repeat(zoom, axis=2)
    h, w = h * zoom + gap, w * zoom + gap
    if columns is None:
        columns = next((k for k in (10, 8, 5, 4) if n % k == 0 and n // k <= k * 2), int(np.ceil(n**0.5)))
    sheet = np.full((-(-n // columns) * h + gap, columns * w + gap, c), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * h + gap, (i % columns) * w + gap
        place = sheet[top : top + h - gap, left : left + w - gap]
        place[:] = _cross(*image.shape[:2])[..., None] if i in failed else image
    return picture(sheet)


def _cross(h: int, w: int) -> np.ndarray:
    """uint8 [H, W]: white, the diagonals black."""
    down, across = np.indices((h, w))
    slope = np.abs(np.stack([down * w - across * h, (h - 1 - down) * w - across * h]))
    return np.where((slope < max(h, w)).any(0), 0, 255).astype(np.uint8)


def picture(image: np.ndarray) -> Image.Image:
    """uint8 [H, W, C] with one or three channels."""
    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
