"""What a clip file means: frames by the time at which they are shown, upright and as wide as a player shows them.

    frame k of a record at `fps` is the last one that the file shows at its start + k / fps

So clips of any rate, and of one that varies, move as fast as they do in a player. Of several streams of pictures the
first is read; sound is not. `av` (the extra `video`) decodes and is loaded here alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from math import ceil
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from flexidit_jax.common.errors import UserError, first_line
from flexidit_jax.data.corrupt import Corrupt
from flexidit_jax.data.crop import covering_crop

#: what names of clips end in, in small letters
ENDINGS = (
    *(".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".webm", ".wmv"),
)
#: FFmpeg's names of what is read: others, such as lists of files, would open what nobody named
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,mpeg,flv,asf,ogg"
#: the most that a container rounds times by, in seconds
_ROUNDED = Fraction(1, 1000)


class Header(NamedTuple):
    """What a clip says of itself.

    Attributes:
      height, width: of a frame as it is shown, in pixels.
      seconds: how long its pictures last.
    """

    height: int
    width: int
    seconds: Fraction

    def frames(self, fps: float) -> int:
        """How many there are at so many a second."""
        return ceil((self.seconds - _ROUNDED) * Fraction(fps))


def check_av() -> None:
    """Refuses early what nothing here could read.

    Raises:
      UserError: no `av` here.
    """
    try:
        import av  # noqa: F401
    except ImportError:
        raise UserError("clips are read by av (pip install -e '.[video]')") from None


def header(file: BinaryIO, name: str) -> Header:
    """What a clip says of itself, and its first frame: which side is up no header says.

    Raises:
      Corrupt: it is no clip, or has no pictures.
      OSError: the file cannot be read.
    """
    with _pictures(file, name) as stream:
        first = next(stream.container.decode(stream), None)
        if first is None:
            raise Corrupt(name, "no picture that can be decoded")
        width, height = _shown(first, stream).size
        return Header(height, width, _seconds(stream, first.pts or 0))


def read(file: BinaryIO, name: str, frames: int, size: tuple[int, int], fps: float) -> np.ndarray:
    """The first frames of a clip, float32 [frames, height, width, 3] in [-1, 1]; see `data.crop.covering_crop`.

    Args:
      name: what a user would look for.
      size: height and width.
      fps: of the record, whatever that of the file is.

    Raises:
      Corrupt: it is no clip, has no pictures, a damaged one, or not as many as its header says.
      OSError: the file cannot be read.
    """
    x = np.empty((frames, *size, 3), np.float32)
    times = [Fraction(k) / Fraction(fps) for k in range(frames)]
    done = 0
    with _pictures(file, name) as stream:
        for frame, until in _lasting(stream, name, 1 / Fraction(fps)):
            before = done
            while done < frames and times[done] < until:
                done += 1
            if before < done:
                if frame.is_corrupt:
                    raise Corrupt(name, f"damaged at {float(times[before]):.2f} s")
                x[before:done] = covering_crop(_shown(frame, stream), *size)
            if done == frames:
                break
    if done < frames:
        raise Corrupt(name, f"ends after {done} of {frames} frames")
    x /= np.float32(127.5)
    x -= 1
    return x


def _lasting(stream: Any, name: str, last: Fraction) -> Iterator[tuple[Any, Fraction]]:
    """Every frame with the time, from the first on, at which it is no longer shown.

    Args:
      last: seconds for which the last frame is shown at least; what files say of it differs.
    """
    tick = stream.time_base
    slack = min(tick, _ROUNDED)
    before, start, since = None, None, Fraction(0)
    for frame in stream.container.decode(stream):
        if frame.pts is None:
            raise Corrupt(name, "frames without times")
        start = frame.pts if start is None else start
        at = (frame.pts - start) * tick
        if before is not None:
            yield before, at - slack
        before, since = frame, at
    if before is not None:
        yield before, since + max(last, (before.duration or 0) * tick)


def _seconds(stream: Any, start: int) -> Fraction:
    """How long the pictures of a stream last from `start` on: as its header says, else as its last packets do."""
    if stream.duration:
        return stream.duration * stream.time_base
    from av.error import FFmpegError

    container = stream.container
    with suppress(FFmpegError):  # without an index all packets are read
        container.seek(container.duration or 0)  # in microseconds, to the last whole picture before
    ends = (packet.pts + (packet.duration or 0) for packet in container.demux(stream) if packet.pts is not None)
    return (max(ends, default=start) - start) * stream.time_base


def _shown(frame: Any, stream: Any) -> Image.Image:
    """A frame as a player shows it: of square pixels, turned as the file says."""
    from av.sidedata.sidedata import Type

    image = frame.to_image()
    if (wide := stream.sample_aspect_ratio or 1) != 1:  # of a pixel
        image = image.resize((max(1, round(image.width * wide)), image.height), Image.Resampling.BICUBIC)
    matrix = frame.side_data.get(Type.DISPLAYMATRIX)
    return image if matrix is None else _turned(image, np.frombuffer(bytes(matrix), np.int32))


def _turned(image: Image.Image, matrix: Sequence[int]) -> Image.Image:
    """Turned by quarters and mirrored, as a matrix of 3 x 3 says: (column, row) times it is where a pixel goes."""
    a, b, _, c, d, *_ = map(int, matrix)
    if abs(a) + abs(d) < abs(b) + abs(c):
        image, a, d = image.transpose(Image.Transpose.TRANSPOSE), c, b
    if a < 0:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image.transpose(Image.Transpose.FLIP_TOP_BOTTOM) if d < 0 else image


@contextmanager
def _pictures(file: BinaryIO, name: str) -> Iterator[Any]:
    """The first stream of pictures that move; whatever is raised of one that cannot be decoded becomes `Corrupt`."""
    import av

    if not file.read(1):
        raise Corrupt(name, "empty")
    file.seek(0)
    what = "no clip that can be read"
    try:
        with av.open(file, options={"format_whitelist": _FORMATS}, metadata_errors="ignore") as container:
            covers = av.stream.Disposition.attached_pic
            streams = [stream for stream in container.streams.video if not stream.disposition & covers]
            if not streams:
                raise Corrupt(name, "no stream of pictures")
            if streams[0].codec_context is None:
                raise Corrupt(name, "pictures of a codec that is not known")
            streams[0].codec_context.thread_count = 1  # clips are read by several threads
            what = "damaged"
            yield streams[0]
    except (av.error.FFmpegError, ValueError) as error:
        raise Corrupt(name, f"{what}: {first_line(getattr(error, 'strerror', error))}") from None
