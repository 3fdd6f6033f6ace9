"""Images as evaluators are handed them, as samples or as a reference: uint8 in batches, never all at once.

    a `.npz` file      `arr_0` uint8 [N, H, W, 3], and `arr_1` [N] where it holds their classes
    a folder           pictures at any depth, in the order of their names
    a folder of ours   `samples.npz` of `--mode=generate`, or its `shards` where that is not made yet: the first images

Pixels count as they are stored, as all evaluators have it: none is turned, and what would be scaled or joined by a
guess is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from flexidit_jax.common.array_files import ArrayFile
from flexidit_jax.common.cores import cores
from flexidit_jax.common.errors import UserError, first_line
from flexidit_jax.common.files import content_digest, shard_file
from flexidit_jax.data.as_shown import turn_of
from flexidit_jax.data.crop import centre_crop, centre_square
from flexidit_jax.data.picture_kinds import endings, formats

#: formats whose pixels are not those that were saved, or may be others
_LOSSY = {"JPEG": "is", "MPO": "is", "JPEG2000": "may be", "WEBP": "may be", "AVIF": "may be"}
#: names of crops -> of a picture and a side: ADM's and DiT's; the middle square, resized bicubically
CROPS: dict[str, Callable[[Image.Image, int], np.ndarray]] = {"adm": centre_crop, "square": centre_square}


@dataclass(frozen=True)
class ImageSet:
    """Images of one size.

    Attributes:
      path: where they are.
      count: how many.
      shape: (H, W, 3).
      labels: [count] their classes, where that is known.
      crop: name and side of what was cut out of every picture, such as "square 256"; None where nothing was.
      remarks: what a number made of them must say, such as that they are JPEGs.
      lossless: whether none of them is of a format that changes pixels.
    """

    path: Path
    count: int
    shape: tuple[int, int, int]
    labels: np.ndarray | None = None
    crop: str | None = None
    remarks: tuple[str, ...] = ()
    lossless: bool = field(default=True, kw_only=True)
    _rows: Callable[[int, int], Iterator[np.ndarray]] = field(repr=False, default=lambda size, first: iter(()))
    _files: Sequence[Path] = field(repr=False, default=())

    def batches(self, size: int, first: int = 0) -> Iterator[np.ndarray]:
        """uint8 [size, H, W, 3], the last one smaller, in order from image `first` on; read when they are asked for.

        Raises:
          UserError: a picture that is damaged, or is not like the first.
        """
        return self._rows(size, first)

    def numbered(self, numbers: Sequence[int], size: int) -> Iterator[np.ndarray]:
        """Those of some ascending numbers, in pieces of at most `size`.

        Raises:
          UserError: see `batches`.
        """
        wanted, begin = np.zeros(self.count, bool), 0
        wanted[np.asarray(numbers, int)] = True
        for batch in self.batches(size):
            if (chosen := wanted[begin : begin + len(batch)]).any():
                yield batch[chosen]
            begin += len(batch)

    @cached_property
    def sha256(self) -> str:
        """Of the file; of several, of their names and bytes in order. Reads all of it."""
        if len(self._files) == 1:
            return content_digest(self._files).hexdigest()
        digest = hashlib.sha256()
        for file in self._files:
            content = content_digest([file]).hexdigest()
            digest.update(f"{file.relative_to(self.path)}\0{content}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()


def open_images(path: str | Path, crop: str | None = None, side: int | None = None) -> ImageSet:
    """What is at a path; see the head of this file.

    Args:
      crop: of photographs of any size, a name in `CROPS`; None takes pixels as they are.
      side: of the crop.

    Raises:
      UserError: nothing is there, or no images; a picture that is none, has 16 bits or, without a crop, is greyscale or
        of another size than the first. Of pictures the headers are read here; damage is seen in `batches`.
    """
    path = Path(path).expanduser()
    if (crop is None) != (side is None) or crop not in (None, *CROPS):
        raise UserError(f"a crop is one of {', '.join(CROPS)} with its side, got {crop!r} and {side!r}")
    if path.is_dir():
        return _folder(path, crop, side)
    if not path.exists():
        raise UserError(f"there is no {path}; images are a folder of PNG files, or a .npz file with arr_0")
    if path.suffix != ".npz":
        raise UserError(f"{path} holds no images; a folder of PNG files would do, or a .npz file with arr_0")
    return _array(path, crop, side)


def _array(path: Path, crop: str | None, side: int | None) -> ImageSet:
    file = ArrayFile(path)
    if "arr_0" not in file:
        raise UserError(f"{path} holds {', '.join(file) or 'nothing'}, and no images, which are its arr_0")
    shape, dtype = file["arr_0"].shape, file["arr_0"].dtype
    _check_array(f"arr_0 of {path}", shape, dtype)
    labels = None
    if "arr_1" in file and file["arr_1"].shape == shape[:1] and file["arr_1"].dtype.kind in "iu":
        labels = file.read("arr_1")
    cut = _cut_already(path, shape, crop, side)
    return ImageSet(path, shape[0], shape[1:], labels, cut, (), partial(file.rows, "arr_0"), (path,))


def _folder(path: Path, crop: str | None, side: int | None) -> ImageSet:
    if (path / "samples.npz").is_file():
        return _array(path / "samples.npz", crop, side)
    if (path / "shards").is_dir() and (shards := sorted((path / "shards").glob("*.npy"))):
        return _shards(path, shards, crop, side)
    known = endings()
    files = sorted(file for file in path.rglob("*") if file.name.lower().endswith(known) and file.is_file())
    files = [file for file in files if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    if not files:
        raise UserError(f"{path} holds no pictures; samples are PNG files at any depth, or a .npz file with arr_0")
    with ThreadPoolExecutor(cores()) as pool:
        headers = list(pool.map(partial(_header, crop=crop), files))
    width, height = one = headers[0][1]
    for file, (_, size, _) in zip(files, headers):
        if size != one and crop is None:
            raise UserError(
                f"{file} is {_size(size)} and {files[0].name} {_size(one)}; all must be of one size, or name a crop:"
                f" {', '.join(CROPS)}"
            )
    lossy = Counter(kind for kind, _, _ in headers if kind in _LOSSY)
    remarks = tuple(
        f"{count:,} of {len(files):,} images are {kind}, which {_LOSSY[kind]} lossy" for kind, count in lossy.items()
    )
    if turned := sum(turned for _, _, turned in headers):
        remarks += (f"{turned:,} of {len(files):,} images would be shown turned, and count as they are stored",)
    if (folders := len({file.parent for file in files})) > 1:
        remarks += (f"images of {folders:,} folders, one after the other; parts of an Inception score are of few",)

    def rows(size: int, first: int) -> Iterator[np.ndarray]:
        with ThreadPoolExecutor(cores()) as pool:  # Pillow decodes outside of Python's lock
            for begin in range(first, len(files), size):
                yield np.stack(list(pool.map(partial(_pixels, crop=crop, side=side), files[begin : begin + size])))

    shape = (height, width, 3) if side is None else (side, side, 3)
    return ImageSet(path, len(files), shape, None, crop and f"{crop} {side}", remarks, rows, files, lossless=not lossy)


def _shards(path: Path, files: Sequence[Path], crop: str | None, side: int | None) -> ImageSet:
    def opened(file: Path) -> np.ndarray:
        try:
            return np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{file} is no whole .npy file ({first_line(error)})") from None

    again = "the same --mode=generate makes it"
    for number, file in enumerate(files):
        if file != (due := shard_file(path, number, ".npy")):
            raise UserError(f"{due} is not there, and {file.name} is, whose images would take its places; {again}")
    shapes = [opened(file).shape for file in files]
    for file, shape in zip(files, shapes, strict=True):
        _check_array(str(file), shape, opened(file).dtype)
        if shape[1:] != shapes[0][1:]:
            raise UserError(f"{file} holds images of {shape[1:]} and {files[0].name} of {shapes[0][1:]}")
        if shape[0] > shapes[0][0] or (shape[0] < shapes[0][0] and file != files[-1]):
            raise UserError(f"{file} holds {shape[0]:,} images, and {files[0].name} {shapes[0][0]:,}; {again} whole")
    count, asked = sum(shape[0] for shape in shapes), _asked(path)
    remarks = (f"the first {count:,} of {asked:,} images",) if asked is not None and count < asked else ()

    def rows(size: int, first: int) -> Iterator[np.ndarray]:
        rest = np.empty((0, *shapes[0][1:]), np.uint8)
        for file, (count, *_) in zip(files, shapes):
            skipped = min(first, count)
            first -= skipped
            rest = np.concatenate([rest, opened(file)[skipped:]])
            while len(rest) >= size:
                yield rest[:size]
                rest = rest[size:]
        if len(rest):
            yield rest

    cut = _cut_already(path, shapes[0], crop, side)
    return ImageSet(path, count, shapes[0][1:], None, cut, remarks, rows, files)


def _asked(path: Path) -> int | None:
    """How many images the folder of `--mode=generate` was asked for; None where nothing says so."""
    try:
        asked = json.loads((path / "manifest.json").read_text())["num"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return asked if isinstance(asked, int) else None


def _cut_already(path: Path, shape: tuple[int, ...], crop: str | None, side: int | None) -> str | None:
    """The name of a crop that leaves an array of images as it is."""
    if crop is None:
        return None
    if shape[1:3] != (side, side):
        said = f"{_size((shape[2], shape[1]))} pixels"
        raise UserError(f"{path} holds an array of {said}, which is not cropped to {side}; a crop is for photographs")
    return f"{crop} {side}"


def _header(file: Path, crop: str | None) -> tuple[str, tuple[int, int], bool]:
    """The format of a picture, its width and height, and whether its EXIF would have it turned."""
    with _opened(file) as image:
        _check_picture(file, image, crop)
        return image.format, image.size, "exif" in image.info and turn_of(image) is not None


def _pixels(file: Path, crop: str | None, side: int | None) -> np.ndarray:
    """uint8 [H, W, 3]."""
    with _opened(file) as image:
        return CROPS[crop](image, side) if crop else np.asarray(image.convert("RGB"))


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file, formats=formats()) as image:
            yield image
    except UserError:
        raise
    except UnidentifiedImageError:
        raise UserError(f"{file} is no picture") from None
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, ValueError, struct.error and more
        raise UserError(f"{file} cannot be read ({first_line(error)})") from None


def _check_picture(file: Path, image: Image.Image, crop: str | None) -> None:
    if image.mode.startswith(("I", "F")) or _depth(file, image) > 8:
        raise UserError(f"{file} has more than 8 bits a channel, which no evaluator reads; save it with 8")
    if getattr(image, "n_frames", 1) > 1:
        raise UserError(f"{file} has {image.n_frames} frames; save each as a picture")
    if crop is not None:  # of photographs a few are grey, and everybody repeats their channel
        return
    if image.mode in ("1", "L", "LA"):
        raise UserError(f"{file} is greyscale; features are of colour images, so save it as RGB where that is meant")
    if image.has_transparency_data:
        raise UserError(f"{file} is partly transparent; save it as RGB over the background that is meant")
    if image.mode not in ("RGB", "P"):
        raise UserError(f"{file} is a picture of mode {image.mode}; save it as RGB")


def _depth(file: Path, image: Image.Image) -> int:
    """Bits a channel. Of PNG, Pillow reads 16 as 8 where there is colour, and the header alone tells."""
    if image.format != "PNG":
        return 8
    with file.open("rb") as raw:
        return raw.read(25)[24]


def _check_array(what: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or 0 in shape:
        grey = "; repeat the channel of greyscale images three times" if len(shape) == 4 and shape[-1] == 1 else ""
        raise UserError(f"{what} must be uint8 [N, H, W, 3], got {dtype} {list(shape)}{grey}")


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
