"""Which captions belong to which file of a folder, and what is left out for what reason."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.data.captioned import images
from flexidit_jax.data.captioned_folder import captioned_folder


def fill(folder: Path, **files: str | bytes) -> None:
    """Files by their names, in which `__` stands for a dot and `_of_` for a folder."""
    for name, content in files.items():
        file = folder / name.replace("_of_", "/").replace("__", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)


def found(folder: Path, *args: object) -> dict[str, tuple[str, ...]]:
    return {pair.name: pair.captions for pair in captioned_folder(folder, images(), *args).pairs}


def left_out(folder: Path, *args: object) -> dict[str, str]:
    """Why -> the first, of which there is no other."""
    out = captioned_folder(folder, images(), *args).left_out
    assert set(out.counts.values()) <= {1}
    return out.examples


def test_texts_of_the_same_stem(tmp_path: Path) -> None:
    fill(tmp_path, b__PNG="", b__txt=" of b\n", a_of_x__jpg="", a_of_x__caption="\ufeffÄpfel", a_of_x__webp="")
    fill(tmp_path, c__v1__png="", c__v1__TXT="a cat,\non a mat\r\n")
    assert found(tmp_path) == {
        "a/x.jpg": ("Äpfel",),
        "a/x.webp": ("Äpfel",),
        "b.PNG": ("of b",),
        "c.v1.png": ("a cat,\non a mat",),
    }
    [pair, *_] = captioned_folder(tmp_path, images()).pairs
    assert (pair.at.file, pair.at.first, pair.at.length, pair.size) == (f"{tmp_path}/a/x.jpg", 0, None, None)


def test_missing_halves_are_counted_and_named(tmp_path: Path) -> None:
    fill(tmp_path, a__png="", b__txt="alone", c__png="", c__txt="", d__png="", d__txt=" \n")
    fill(tmp_path, e__png="", e__txt="é".encode("latin-1"), f__png="", f__txt="an apple".encode("utf-16-le"))
    fill(tmp_path, g__png="", g__txt="g", g__caption="not g", h__png="", h__txt="h", h__caption="h ", i__heif2="")
    out = captioned_folder(tmp_path, images()).left_out
    assert found(tmp_path) == {"h.png": ("h",)}
    assert out.counts == {
        "image without a caption": 1,
        "caption without an image": 1,
        "image with an empty caption": 2,
        "image with a caption that is not UTF-8": 2,
        "image with captions that disagree": 1,
        "file of kind .heif2": 1,
    }
    assert list(out.examples.values()) == ["i.heif2", "b.txt", "a.png", "c.png", "e.png", "g.png"]


def test_metadata_names_files_relative_to_itself(tmp_path: Path) -> None:
    rows = [
        {"file_name": "0.png", "text": ["zero", " ", "nought "], "width": 30, "height": "20"},
        {"file_name": "./in/1.png", "text": "one"},
        {"file_name": "2.png", "text": None},
        {"file_name": "3.png", "text": ["", " "]},
        {"file_name": "4.png", "text": 4},
        {"file_name": "gone.png", "text": "gone"},
    ]
    fill(tmp_path, a_of_metadata__jsonl="\n".join(map(json.dumps, rows)) + "\n\n", a_of_in_of_1__png="")
    fill(tmp_path, a_of_0__png="", a_of_2__png="", a_of_3__png="", a_of_4__png="", metadata__csv="file_name,text\n")
    assert found(tmp_path) == {"a/0.png": ("zero", "nought"), "a/in/1.png": ("one",)}
    assert [pair.size for pair in captioned_folder(tmp_path, images()).pairs] == [(20, 30), None]
    assert left_out(tmp_path) == {
        "image without a caption": "a/2.png",
        "image with an empty caption": "a/3.png",
        "image with a caption that is no text": "a/4.png",
        "caption without an image": "a/gone.png",
        "caption of no words among others": "a/0.png",
    }


def test_a_table_and_texts_must_say_the_same(tmp_path: Path) -> None:
    fill(tmp_path, metadata__csv='\ufefffile_name,caption\n0.png,"a, b"\n1.png,one\n1.png,uno\n2.png,\n')
    fill(tmp_path, **{f"{i}__png": "" for i in range(4)}, **{"0__txt": "a, b", "1__txt": "one", "2__txt": "two"})
    assert found(tmp_path) == {"0.png": ("a, b",)}
    out = captioned_folder(tmp_path, images()).left_out
    assert out.counts == {"image with captions that disagree": 2, "image without a caption": 1}
    assert found(tmp_path, "caption") == {"0.png": ("a, b",), "1.png": ("one", "uno")}  # texts are not looked at
    assert found(tmp_path, ".txt") == {"0.png": ("a, b",), "1.png": ("one",), "2.png": ("two",)}


def test_a_column_or_an_ending_by_name(tmp_path: Path) -> None:
    fill(tmp_path, metadata__jsonl='{"file_name": "0.png", "text": "t", "long": "l"}', a__blip__txt="blip")
    fill(tmp_path, **{"0__png": "", "a__png": "", "a__txt": "a", "0__txt": "t"})
    assert found(tmp_path) == {"0.png": ("t",), "a.png": ("a",)}
    assert found(tmp_path, "long") == {"0.png": ("l",)}
    assert found(tmp_path, ".blip.txt") == {"a.png": ("blip",)}
    (tmp_path / "metadata.jsonl").unlink()
    with pytest.raises(UserError) as caught:
        captioned_folder(tmp_path, images(), "long")
    assert str(caught.value) == (
        f"{tmp_path} has no metadata.jsonl or metadata.csv with the column dataset.caption='long'; texts beside"
        " images are named by their ending, such as '.txt'"
    )


def test_one_file_of_captions_wherever_it_is(tmp_path: Path) -> None:
    rows = [{"path": "a/0.png", "prompt": "nought", "height": 20, "width": 30, "ratio": 0.67}]
    fill(tmp_path, data_info__json=json.dumps(rows), in_of_a_of_0__png="", in_of_1__png="", in_of_1__txt="one")
    fill(tmp_path, in_of_data_info__json=json.dumps(rows))
    for file in (tmp_path / "data_info.json", tmp_path / "in" / "data_info.json"):
        [pair] = captioned_folder(tmp_path / "in", images(), None, file).pairs
        assert (pair.name, pair.captions, pair.size) == ("a/0.png", ("nought",), (20, 30))
    assert left_out(tmp_path / "in", None, tmp_path / "in" / "data_info.json") == {
        "image without a caption": "1.png",
        "file of kind .txt": "1.txt",
    }
