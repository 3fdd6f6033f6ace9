"""Clips as files: what is read back, what a kill leaves, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flexidit_jax.common.errors import UserError
from flexidit_jax.runs.clips import check_fps, check_mp4, read_clip, write_clip

RNG = np.random.default_rng(0)
SQUARES = np.kron(RNG.integers(0, 256, (4, 6, 3)), np.ones((8, 8, 1))).astype(np.uint8)
CLIP = np.stack([np.roll(SQUARES, 8 * i, 1) for i in range(9)])


def parts() -> Iterator[np.ndarray]:
    yield CLIP[:1]
    yield CLIP[1:5]
    yield CLIP[5:]


def test_an_mp4_grows_by_whole_parts(tmp_path: Path) -> None:
    import av

    file, seen = tmp_path / "a.mp4", []

    def watched() -> Iterator[np.ndarray]:
        for part in parts():
            seen.append(len(read_clip(file)) if file.exists() else 0)
            yield part

    assert write_clip(file, watched(), fps=12) == 9
    assert seen == [0, 1, 5] and [path.name for path in tmp_path.iterdir()] == ["a.mp4"]
    found = read_clip(file)
    assert found.shape == CLIP.shape and np.abs(found.astype(int) - CLIP).mean() < 6
    with av.open(str(file)) as container:
        assert container.streams.video[0].average_rate == 12


def test_what_a_kill_leaves_plays(tmp_path: Path) -> None:
    def killed() -> Iterator[np.ndarray]:
        yield CLIP[:1]
        yield CLIP[1:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_clip(tmp_path / "a.mp4", killed())
    assert len(read_clip(tmp_path / "a.mp4")) == 5


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_pictures_that_move(tmp_path: Path, kind: str) -> None:
    assert write_clip(tmp_path / f"a.{kind}", parts(), fps=10) == 9
    with Image.open(tmp_path / f"a.{kind}") as image:
        assert (image.format, image.n_frames, image.size) == (kind.upper(), 9, (48, 32))
        image.seek(5)
        image.load()  # a WebP knows a frame's duration then
        assert image.info["duration"] == 100
        assert np.abs(np.asarray(image.convert("RGB")).astype(int) - CLIP[5]).mean() < 12


def test_refusals(tmp_path: Path) -> None:
    for file, frames, said in (
        ("a.avi", CLIP, f"{tmp_path}/a.avi is written as one of mp4, gif, webp; its name must end so"),
        ("a.gif", CLIP[:0], f"{tmp_path}/a.gif would hold no frame"),
        ("a.mp4", CLIP[:, :-1], "an MP4 has even sides, and these frames are 31x48; gif and webp take any"),
    ):
        with pytest.raises(UserError) as caught:
            write_clip(tmp_path / file, [frames])
        assert str(caught.value) == said
    for fps in (0, 2.5, -1, 241, True):
        with pytest.raises(UserError, match=r"fps must be a whole number of frames a second in 1\.\.240"):
            check_fps(fps)
    (tmp_path / "no.mp4").write_text("words")
    with pytest.raises(UserError, match=r"no\.mp4 is no clip that can be read"):
        read_clip(tmp_path / "no.mp4")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_clip(tmp_path / "file" / "a.gif", [CLIP])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "no.mp4"]


def test_without_av(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(UserError, match="MP4 files are written by av"):
        check_mp4(2, 2)
