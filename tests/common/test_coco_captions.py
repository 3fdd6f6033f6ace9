"""COCO's captions: images in the order of ids, and one line for what is of another layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flexidit_jax.common.coco_captions import CocoImage, coco_images, read_json, stated_size
from flexidit_jax.common.errors import UserError

FILE = Path("captions.json")


def content(images: list[Any], annotations: list[Any]) -> dict[str, Any]:
    return {"info": {}, "images": images, "annotations": annotations}


def test_images_in_the_order_of_their_ids_with_captions_in_that_of_the_file(tmp_path: Path) -> None:
    images = [{"id": 10, "file_name": "b"}, {"id": 9, "file_name": "a", "height": 4, "width": 6}]
    told = content(images, [{"image_id": 10, "caption": c, "id": -i} for i, c in enumerate("zy")])
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps(told), encoding="utf-8")
    assert coco_images(read_json(tmp_path / "a.json"), FILE) == [
        CocoImage("a", (), (4, 6)),
        CocoImage("b", ("z", "y"), None),
    ]


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ([], "captions.json has no lists of images and annotations, as COCO's captions_val2014.json has"),
        (content([{"id": 1}], []), "image 0 of captions.json has no id and file_name, as those of COCO have"),
        (
            content([{"id": 1, "file_name": "a"}], [{"image_id": 1, "bbox": []}]),
            "annotation 0 of captions.json has no caption; COCO's captions_*.json have one each",
        ),
        (
            content([{"id": 1, "file_name": "a"}], [{"image_id": 2, "caption": "b"}]),
            "annotation 0 of captions.json is of image 2, which is none of its images",
        ),
    ],
)
def test_what_is_of_another_layout(told: Any, says: str) -> None:
    with pytest.raises(UserError) as caught:
        coco_images(told, FILE)
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"a": 1', "is no whole JSON ("),
        (b"[" * 100_000, "is no whole JSON ("),
        (b"\xe9", "holds no text in UTF-8; save it so"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_what_is_no_json(tmp_path: Path, data: bytes | None, says: str) -> None:
    file = tmp_path / "a.json"
    if data is not None:
        file.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_json(file)
    assert str(caught.value).startswith(f"{file} {says}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ({"height": 3, "width": "4"}, (3, 4)),
        ({"height": 3}, None),
        ({"height": 3, "width": 0}, None),
        ({"height": 3, "width": 4.0}, None),
        ({"height": 3, "width": 10**400}, None),
        ({"height": 3, "width": "9" * 5000}, None),
    ],
)
def test_sizes_that_are_said(said: dict[str, Any], size: tuple[int, int] | None) -> None:
    assert stated_size(said) == size
