"""Clips as files: MP4, GIF, WebP. An MP4 grows by whole parts, so that what a kill leaves of it plays."""

from __future__ import annotations

import io
from collections.abc import Iterable
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import written_aside

#: how a clip may be kept, by the ending of its file
FORMATS = ("mp4", "gif", "webp")
#: of H.264: 0 loses nothing but colours between pixels, 23 is usual
QUALITY = 14


def write_clip(file: Path, parts: Iterable[np.ndarray], fps: int = 16) -> int:
    """Writes a clip; returns its frames.

    Args:
      file: its ending says the format, one of `FORMATS`. An MP4 (H.264, the extra `video`) is whole after every part;
        others are written once all is there.
      parts: uint8 [f, H, W, 3], one after another; the next is asked for when the last is in the file.
      fps: frames a second.

    Raises:
      UserError: another ending, no `av` here, odd sides of an MP4, no frames, or a file that cannot be written.
    """
    kind = file.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise UserError(f"{file} is written as one of {', '.join(FORMATS)}; its name must end so")
    check_fps(fps)
    parts = iter(parts)
    first = next(parts, None)
    if first is None or not len(first):
        raise UserError(f"{file} would hold no frame")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if kind == "mp4":
            return _write_mp4(file, chain([first], parts), fps)
        frames = [Image.fromarray(frame) for part in chain([first], parts) for frame in part]
        more = {"quality": 90, "method": 4} if kind == "webp" else {}
        with written_aside(file) as aside:
            shown = {"duration": 1000 / fps, "loop": 0, "save_all": True, "append_images": frames[1:]}
            frames[0].save(aside, format=kind.upper(), **shown, **more)
        return len(frames)
    except OSError as error:
        raise UserError(f"cannot write {file} ({error.strerror or error})") from None


def check_fps(fps: int) -> None:
    """Refuses what is no number of frames a second.

    Raises:
      UserError: saying what would do.
    """
    if type(fps) is not int or not 0 < fps <= 240:
        raise UserError(f"fps must be a whole number of frames a second in 1..240, such as 16, got {fps!r}")


def check_mp4(height: int, width: int) -> None:
    """Refuses early what `write_clip` could not write as MP4.

    Raises:
      UserError: no `av` here, or odd sides.
    """
    try:
        import av  # noqa: F401
    except ImportError:
        raise UserError("MP4 files are written by av (pip install -e '.[video]'); gif and webp want nothing") from None
    if height % 2 or width % 2:
        raise UserError(f"an MP4 has even sides, and these frames are {height}x{width}; gif and webp take any")


def read_clip(file: Path) -> np.ndarray:
    """All frames of a clip that `av` reads, uint8 [F, H, W, 3].

    Raises:
      UserError: no `av` here, or no clip.
    """
    check_mp4(2, 2)
    import av

    try:
        with av.open(str(file)) as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    except (av.error.FFmpegError, OSError, IndexError, ValueError) as error:
        raise UserError(f"{file} is no clip that can be read ({error})") from None


def _write_mp4(file: Path, parts: Iterable[np.ndarray], fps: int) -> int:
    """After every part a whole file takes the place of the one before; frames are encoded once."""
    encoder, packets, count = None, [], 0
    for part in parts:
        if encoder is None:
            check_mp4(*part.shape[1:3])
            import av

            encoder = av.open(io.BytesIO(), "w", format="mp4")
            stream = encoder.add_stream("libx264", rate=Fraction(fps))
            stream.height, stream.width, stream.pix_fmt = *part.shape[1:3], "yuv420p"
            stream.options = {"crf": str(QUALITY), "tune": "zerolatency"}  # each frame's packet comes with it
            encoder.start_encoding()
        for frame in part:
            packets += stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24"))
        count += len(part)
        with written_aside(file) as aside, av.open(str(aside), "w", format="mp4") as whole:
            copied = whole.add_stream_from_template(stream)
            for packet in packets:
                again = av.Packet(bytes(packet))
                again.pts, again.dts, again.duration = packet.pts, packet.dts, packet.duration
                again.time_base, again.is_keyframe, again.stream = packet.time_base, packet.is_keyframe, copied
                whole.mux(again)
    return count
