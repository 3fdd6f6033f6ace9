"""Files of captions: what a line says, and one line of refusal for each that says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.data.caption_files import Told, read_captions
from flexidit_jax.data.captions import NO_TEXT, NO_UTF8

NO_OBJECT = ' is no object such as {"file_name": "0.png", "text": "an apple"}'


def read(tmp_path: Path, name: str, content: str | bytes, caption: str | None = None) -> dict[str, Told]:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_captions(file, caption)


def test_lines_of_the_same_picture_add_up(tmp_path: Path) -> None:
    lines = '{"file_name": "a", "text": "1"}\n{"file_name": "b", "text": ["2", "3"]}\n{"file_name": "./a", "text": "4"}'
    told = read(tmp_path, "metadata.jsonl", lines)
    assert {name: one.said for name, one in told.items()} == {"a": ("1", "4"), "b": ("2", "3")}
    table = 'caption,file_name,width,height\n"x,\u2028\ny",a,3,2\r\nz,a,,\r\n'
    told = read(tmp_path, "metadata.csv", table)
    assert told == {"a": Told(("x,\u2028\ny", "z"), (2, 3))}


def test_the_first_of_the_usual_columns(tmp_path: Path) -> None:
    line = '{"file_name": "a", "prompt": "p", "caption": "c"}'
    assert read(tmp_path, "m.jsonl", line)["a"].said == ("c",)
    assert read(tmp_path, "m.jsonl", line, "prompt")["a"].said == ("p",)
    mixed = line + '\n{"file_name": "b", "text": "t"}'
    assert {name: one.said for name, one in read(tmp_path, "m.jsonl", mixed).items()} == {"a": None, "b": ("t",)}
    assert read(tmp_path, "m.jsonl", '{"file_name": "a", "text": 3}')["a"].said == NO_TEXT
    assert read(tmp_path, "m.jsonl", '{"file_name": "a", "text": "\\ud83d"}')["a"].said == NO_UTF8
    assert read(tmp_path, "m.jsonl", "\n") == {}


def test_lists_and_coco(tmp_path: Path) -> None:
    told = read(tmp_path, "data_info.json", '[{"path": "a.png", "prompt": "p", "height": 4, "width": 6}]')
    assert told == {"a.png": Told(("p",), (4, 6))}
    coco = (
        '{"images": [{"id": 2, "file_name": "b"}, {"id": 1, "file_name": "a", "height": 4, "width": 6}],'
        ' "annotations": [{"image_id": 1, "caption": "x"}, {"image_id": 1, "caption": "y"}]}'
    )
    told = read(tmp_path, "coco.json", coco)
    assert told == {"a": Told(("x", "y"), (4, 6)), "b": Told(None, None)}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.jsonl", '{"file_name": "a", "text": "b"}\n{"file', "line 2 of {file}" + NO_OBJECT),
        ("m.jsonl", "[" * 100_000, "line 1 of {file}" + NO_OBJECT),
        ("m.json", '[{"path": "a"}, 3]', "entry 1 of {file}" + NO_OBJECT),
        ("m.jsonl", b'{"file_name": "\xe9"}', "{file} is not UTF-8 at byte 15; save it so"),
        (
            "m.jsonl",
            '{"text": "b"}',
            "line 1 of {file} names no file; each has a file_name, relative to the folder of",
        ),
        (
            "m.jsonl",
            '{"file_name": "../a", "text": "b"}',
            "line 1 of {file} names '../a', which leaves the folder of that file; name what is within",
        ),
        ("m.csv", "file_name,text\n/etc/a,b\n", "line 2 of {file} names '/etc/a', which leaves the folder"),
        (
            "m.jsonl",
            '{"file_name": "a", "label": 3, "txt": ""}',
            "{file} has no column text, caption, prompt; dataset.",
        ),
        (
            "m.csv",
            "file_name,text\na,b,c\n",
            "line 2 of {file} has more cells than its head; cells with commas stand in",
        ),
        ("m.csv", "file_name,text\n\na\n", "line 3 of {file} has fewer cells than its head; cells with commas stand"),
        ("m.csv", 'file_name,text\na,"b', "{file} is no table from line 1 on (unexpected end of data)"),
        ("m.json", "{", "{file} is no whole JSON ("),
        ("m.json", "{}", "{file} is neither COCO's JSON of images and annotations nor a list of files"),
        ("m.txt", "", "{file} is no file of captions, whose name ends in .jsonl, .csv, .json"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, content: str | bytes, says: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, name, content)
    assert str(caught.value).startswith(says.replace("{file}", str(tmp_path / name)))
    assert "\n" not in str(caught.value)


def test_a_column_that_is_not_there_earns_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, "{}.jsonl", '{"file_name": "a", "short": "s", "long": "l"}', "lang")
    assert str(caught.value) == (
        f"{tmp_path}/{{}}.jsonl has no column 'lang' for dataset.caption; did you mean 'long'?"
    )
    with pytest.raises(UserError, match=r"dataset\.caption names that of the captions; there are short, long$"):
        read(tmp_path, "m.jsonl", '{"file_name": "a", "short": "s", "long": "l"}')
    with pytest.raises(UserError, match=r"m\.jsonl cannot be read \(No such file or directory\)$"):
        read_captions(tmp_path / "no" / "m.jsonl")
