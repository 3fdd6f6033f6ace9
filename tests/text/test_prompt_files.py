"""Files of prompts: lines, COCO's captions, and the lists that benchmarks hand out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.text.prompt_files import Prompt, prompts_file, read_prompt_file
from flexidit_jax.text.prompts import read_prompts


def write(file: Path, content: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return file


def test_coco_gives_the_first_caption_of_every_image_in_the_order_of_ids(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in (20, 3, 11)]
    told = [{"image_id": i, "caption": text} for i, text in ((20, "z "), (3, "a"), (20, "y"), (3, "b"))]
    file = write(tmp_path / "captions_val.json", {"images": images, "annotations": told})
    assert read_prompts(str(file)) == ["a", "z"]
    assert [prompt.key for prompt in read_prompt_file(file)] == ["00000", "00002"]


def test_lists_of_benchmarks(tmp_path: Path) -> None:
    lines = [{"tag": "colors", "include": [], "prompt": "a red cow"}, {"text": "b"}]
    file = write(tmp_path / "evaluation_metadata.jsonl", "\n".join(map(json.dumps, lines)) + "\n")
    assert read_prompt_file(file) == [
        Prompt("a red cow", "evaluation_metadata", "00000", lines[0]),
        Prompt("b", "evaluation_metadata", "00001", lines[1]),
    ]
    file = write(tmp_path / "a.jsonl", json.dumps({"prompt": "a\u2028b\x85c"}, ensure_ascii=False) + "\r\n")
    assert read_prompts(str(file)) == ["a\u2028b\x85c"]
    file = write(tmp_path / "genai_image.json", {"00007": {"prompt": "c", "models": {}}})
    assert read_prompt_file(file) == [Prompt("c", "genai_image", "00007", {"prompt": "c", "models": {}})]
    for style in ("photo", "anime", "drawbench"):
        write(tmp_path / "benchmark" / f"{style}.json", [f"{style} {i}" for i in range(2)])
    found = read_prompt_file(tmp_path / "benchmark")
    assert [(prompt.group, prompt.key) for prompt in found] == [
        ("anime", "00000"),
        ("anime", "00001"),
        ("photo", "00000"),
        ("photo", "00001"),
    ]
    assert read_prompts(str(tmp_path / "benchmark")) == ["anime 0", "anime 1", "photo 0", "photo 1"]


def test_what_is_a_file_and_what_a_prompt(tmp_path: Path) -> None:
    assert prompts_file("a cat.txt") == Path("a cat.txt")  # a slip, which reading it says
    assert prompts_file("a.jsonl") == Path("a.jsonl") and prompts_file("a.json") == Path("a.json")
    for text in ("a cat", "", "x" * 400, "a\0b", str(tmp_path)):
        assert prompts_file(text) is None
    write(tmp_path / "captions", "one")
    assert prompts_file(str(tmp_path / "captions")) == tmp_path / "captions"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", [], "{file} holds no prompts; write one a line"),
        ("a.json", {"images": [], "annotations": []}, "{file} holds no prompts; write one a line"),
        ("a.json", "3", "{file} holds neither a list of prompts nor COCO's captions"),
        ("a.json", ["a", ""], '{file}, entry 00001: no prompt such as {"prompt": "a red apple"}'),
        ("a.json", '["\\ud83d"]', '{file}, entry 00000: no prompt such as {"prompt": "a red apple"}'),
        ("a.json", {"7": {"models": 3}}, '{file}, entry 7: no prompt such as {"prompt": "a red apple"}'),
        ("a.jsonl", '{"prompt": "a"}\n{"prompt', '{file}, line 2: no prompt such as {"prompt": "a red apple"}'),
        ("a.jsonl", '{"prompt": "a"}\n\n', "line 2 of {file} is empty; write a prompt a line, and no line without one"),
        ("a.json", "{", "{file} is no whole JSON ("),
    ],
)
def test_what_are_no_prompts(tmp_path: Path, name: str, content: Any, says: str) -> None:
    file = write(tmp_path / name, content)
    with pytest.raises(UserError) as caught:
        read_prompts(str(file))
    assert str(caught.value).startswith(says.replace("{file}", str(file))) and "\n" not in str(caught.value)
