"""Tar shards: keys and what belongs to them, where bytes lie, and one line for a shard that is not whole."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.data.captioned import images
from flexidit_jax.data.captions import Pairs
from flexidit_jax.data.tar_shards import captioned_shards, shards_of

MENDED = "fetch or write it again, or leave it out of dataset.path"


def pack(file: Path, members: Mapping[str, str | bytes | None], **words: object) -> Path:
    """A shard of members in their order; None is a folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w", **words) as shard:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            data = content.encode() if isinstance(content, str) else content or b""
            member.size = len(data)
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            shard.addfile(member, io.BytesIO(data))
    return file


def read(tmp_path: Path, members: Mapping[str, str | bytes | None], caption: str | None = None) -> Pairs:
    return captioned_shards([pack(tmp_path / "0.tar", members)], images(), caption)


def test_keys_go_to_the_first_dot_and_spans_hold_the_pictures(tmp_path: Path) -> None:
    long = "folder.with.dots/" + "n" * 120  # of two headers
    members = {"./a.b.jpg": "a.b", "./a.JPG": b"picture a", "./a.txt": " of a\n", "d": None, "d/b.txt": "of b"}
    found = read(tmp_path, members | {"d/b.png": b"picture b", f"{long}.webp": b"", f"{long}.caption": "long"})
    assert [(pair.name, pair.captions, pair.at.read()) for pair in found.pairs] == [
        ("0.tar/a.jpg", ("of a",), b"picture a"),
        ("0.tar/d/b.png", ("of b",), b"picture b"),
        (f"0.tar/{long}.webp", ("long",), b""),
    ]
    assert found.folder == tmp_path and found.left_out.examples == {"member of kind .b.jpg": "0.tar/a.b.jpg"}
    with found.pairs[0].at.open() as file:
        assert (file.read(3), file.seek(-2, io.SEEK_END), file.read(), file.read()) == (b"pic", 7, b" a", b"")


def test_the_first_member_of_a_name_counts(tmp_path: Path) -> None:
    found = read(tmp_path, {"a.txt": "one", "./a.txt": "two", "a.png": b"1", "a.PNG": b"2"})
    assert [(pair.captions, pair.at.read()) for pair in found.pairs] == [(("one",), b"1")]
    assert found.left_out.counts == {"member of a name that was there before": 2}


def test_json_says_captions_and_sizes(tmp_path: Path) -> None:
    said = {"caption": "a cat", "width": 30, "height": 20, "other": ["x", "y"], "key": "0"}
    members = {"0.png": "", "0.json": json.dumps(said), "1.png": "", "1.json": "{}", "1.txt": "one"}
    found = read(tmp_path, members)
    assert [(pair.captions, pair.size) for pair in found.pairs] == [(("a cat",), (20, 30)), (("one",), None)]
    assert [pair.captions for pair in read(tmp_path, members, "other").pairs] == [("x", "y")]
    assert [pair.captions for pair in read(tmp_path, members, ".txt").pairs] == [("one",)]
    with pytest.raises(UserError) as caught:
        read(tmp_path, members, "othe")
    assert str(caught.value) == f"no .json of {tmp_path}/0.tar has dataset.caption='othe'; did you mean 'other'?"


def test_missing_halves_are_counted_and_named(tmp_path: Path) -> None:
    members = {
        "a.png": "",
        "a.cls": "3",
        "b.txt": "alone",
        "c.json": '{"caption": "alone"}',
        "d.jpg": "",
        "d.txt": "",
        "e.jpg": "",
        "e.json": '{"caption": 3}',
        "f.jpg": "",
        "f.txt": b"\xe9",
        "g.jpg": "",
        "g.json": b'"\xe9"',
        "h.jpg": "",
        "h.txt": "h",
        "h.json": '{"caption": "not h"}',
        "i.jpg": "",
        "i.txt": "i",
        "i.json": "{",
        "j.jpg": "",
        "j.png": "",
        "j.txt": "j",
        "k.jpg": "",
        "l.jpg": "",
        "k.txt": "k",
        "README": "",
        ".x.png": "",
        "m.png": "",
        "m.json": '{"caption": null}',
        "n.png": "",
        "n.json": '{"caption": ["", "n"]}',
    }
    found = read(tmp_path, members)
    assert [pair.name for pair in found.pairs] == ["0.tar/j.jpg", "0.tar/n.png"]
    assert found.left_out.counts == {
        "image without a caption": 4,
        "caption without an image": 3,
        "image with an empty caption": 1,
        "image with a caption that is no text": 2,
        "image with a caption that is not UTF-8": 2,
        "image with captions that disagree": 1,
        "member of kind .cls": 1,
        "member of kind .png": 1,
        "member without an ending": 1,
        "caption of no words among others": 1,
    }
    assert found.left_out.examples["caption without an image"] == "0.tar/b.txt"
    assert [pair.name for pair in read(tmp_path, members, ".txt").pairs[:2]] == ["0.tar/h.jpg", "0.tar/i.jpg"]


def test_shards_by_braces_by_name_and_of_a_folder(tmp_path: Path) -> None:
    for number in (8, 9, 10):
        pack(tmp_path / f"{number:03d}.tar", {f"{number}.png": "", f"{number}.txt": str(number)})
    files = [tmp_path / name for name in ("008.tar", "009.tar", "010.tar")]
    assert shards_of(f"{tmp_path}/{{008..010}}.tar", images()) == files == shards_of(str(tmp_path), images())
    assert [pair.captions for pair in captioned_shards(files, images()).pairs] == [("8",), ("9",), ("10",)]
    assert shards_of(str(files[1]), images()) == files[1:2]
    assert shards_of(str(tmp_path / "nothing"), images()) == []
    with pytest.raises(UserError) as caught:
        shards_of(f"{tmp_path}/{{007..011}}.tar", images())
    assert str(caught.value) == (
        f"2 of 5 shards {tmp_path}/{{007..011}}.tar are not there, the first is {tmp_path}/007.tar; fetch them, or name"
        " those that are there"
    )
    (tmp_path / "cat.png").touch()
    with pytest.raises(UserError) as caught:
        shards_of(str(tmp_path), images())
    assert str(caught.value) == (
        f"{tmp_path} holds shards (008.tar) and images (cat.png); move either, or name the shards, such as"
        f" {tmp_path}/{{00000..00099}}.tar"
    )
    for part in "01":
        pack(tmp_path / part / "0.tar", {"0.png": "", "0.txt": part})
    found = captioned_shards(shards_of(f"{tmp_path}/{{0..1}}/{{0..0}}.tar", images()), images())
    assert [pair.name for pair in found.pairs] == ["0/0.tar/0.png", "1/0.tar/0.png"]


def test_a_shard_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    members = {f"{i}.{ending}": ending * 300 for i in range(3) for ending in ("png", "txt")}
    file = pack(tmp_path / "0.tar", members)
    whole = file.read_bytes()
    starts = [whole.index(b"2.txt"), whole.index(b"1.png")]
    end = starts[0] + 512 + 1024

    def refused(content: bytes) -> str:
        file.write_bytes(content)
        with pytest.raises(UserError) as caught:
            captioned_shards([file], images())
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert refused(whole[: end - 600]) == f"{file} is cut short; {MENDED}"  # within a member
    for stop in (starts[0], starts[0] + 100, end):  # between members, within a head, without the end mark
        begun = starts[0] if stop < end else end
        assert refused(whole[:stop]) == f"{file} is cut short: it ends without a mark at byte {begun}; {MENDED}"
    damaged = whole[: starts[1]] + b"\xff" + whole[starts[1] + 1 :]
    assert refused(damaged) == f"{file} is damaged at byte {starts[1]}, where no member begins; {MENDED}"
    assert refused(b"") == f"{file} is cut short; {MENDED}"
    assert refused(b"<html>" * 200) == f"{file} is no tar that can be read (invalid header); {MENDED}"
    assert refused(gzip.compress(whole)) == f"{file} is compressed; unpack it: members are read where they lie"
    file.write_bytes(whole[: end + 512])  # one block of zeros is a mark
    [*_, last] = captioned_shards([file], images()).pairs
    file.write_bytes(whole[: last.at.first + 7])
    with pytest.raises(UserError) as caught:
        last.at.read()
    assert str(caught.value) == (
        f"{file} was listed but cannot be read (it has become shorter); when it can, the same command goes on"
    )
