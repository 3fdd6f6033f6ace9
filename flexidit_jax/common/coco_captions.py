"""Captions of COCO and of what has its layout: a JSON file of images and, apart from them, annotations."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from flexidit_jax.common.errors import UserError, first_line

#: pixels, of which no picture has so many in a row
MOST = 10**9
_DIGITS = re.compile(r"\d{1,9}")


class CocoImage(NamedTuple):
    """An image of a file of COCO.

    Attributes:
      file_name: of its picture.
      captions: in the order of the file, none where it has none.
      size: height and width, where the file says them.
    """

    file_name: str
    captions: tuple[str, ...]
    size: tuple[int, int] | None


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
      UserError: it is not there, or no JSON in UTF-8.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} holds no text in UTF-8; save it so") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no whole JSON ({first_line(error)}); fetch or write it again") from None


def is_coco(content: Any) -> bool:
    """Whether a JSON has COCO's lists of images and of annotations."""
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in ("images", "annotations"))


def coco_images(content: Any, path: Path) -> list[CocoImage]:
    """The images of a file in the order of their ids.

    Args:
      content: what `read_json` reads.
      path: where it was read.

    Raises:
      UserError: it is not of this layout; the first entry that is not is named.
    """
    if not is_coco(content):
        raise UserError(f"{path} has no lists of images and annotations, as COCO's captions_val2014.json has")
    images: dict[Any, tuple[Any, list[str]]] = {}
    for number, image in enumerate(content["images"]):
        known = isinstance(image, dict) and isinstance(image.get("id"), (int, str))
        if not (known and isinstance(image.get("file_name"), str)):
            raise UserError(f"image {number} of {path} has no id and file_name, as those of COCO have")
        images[image["id"]] = (image, [])
    for number, annotation in enumerate(content["annotations"]):
        if not (isinstance(annotation, dict) and isinstance(caption := annotation.get("caption"), str)):
            raise UserError(f"annotation {number} of {path} has no caption; COCO's captions_*.json have one each")
        if not isinstance(of := annotation.get("image_id"), (int, str)) or of not in images:
            raise UserError(f"annotation {number} of {path} is of image {of!r}, which is none of its images")
        images[of][1].append(caption)
    ordered = sorted(images, key=lambda one: (isinstance(one, str), one))
    return [CocoImage(said["file_name"], tuple(texts), stated_size(said)) for said, texts in map(images.get, ordered)]


def stated_size(said: Any) -> tuple[int, int] | None:
    """The `height` and `width` that are said of a picture; None where they are not, or are no such numbers."""
    sides = tuple(said.get(key) for key in ("height", "width"))
    sides = tuple(int(side) if isinstance(side, str) and _DIGITS.fullmatch(side) else side for side in sides)
    return sides if all(type(side) is int and 0 < side < MOST for side in sides) else None
