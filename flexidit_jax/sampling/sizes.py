"""Sizes of pictures and clips, in pixels and frames or by the ratio of sides: drawn exactly so, or refused.

A ratio picks the nearest bin of PixArt's, heights and widths of about as many pixels as the model was trained at.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from flexidit_jax.common.arguments import shown
from flexidit_jax.common.aspect_bins import bins, nearest_bins
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.notes import note
from flexidit_jax.common.types import Patch
from flexidit_jax.models.dit import DiT

#: shares of the trained pixels, and ratios of sides, beyond which a size is far from what was trained
PIXELS, RATIOS = (0.5, 2.0), (0.25, 4.0)
_RATIO = re.compile(r"\s*([0-9]+)\s*:\s*([0-9]+)\s*")


class Size(NamedTuple):
    """What is asked for; None where nobody says.

    Attributes:
      size: height and width in pixels.
      aspect: instead, width to height, such as "3:2".
      frames: of clips.
    """

    size: tuple[int, int] | None = None
    aspect: str | None = None
    frames: int | None = None


def check_size(size: Any, aspect: Any, frames: Any = None) -> None:
    """Refuses words that are no size.

    Raises:
      UserError: saying what would do.
    """
    whole = isinstance(size, tuple) and all(type(side) is int and side > 0 for side in size)
    if size is not None and not (whole and len(size) == 2):
        raise UserError(f"size must be (height, width) in pixels, such as (512, 768), got {shown(size)}")
    if aspect is not None and (not isinstance(aspect, str) or not _ratio(aspect)):
        raise UserError(f"aspect must be the width to the height, such as '3:2', got {shown(aspect)}")
    if size is not None and aspect is not None:
        raise UserError(f"give a size or an aspect, not both (size={size!r}, aspect={aspect!r})")
    if frames is not None and not (type(frames) is int and frames > 0):
        raise UserError(f"frames must be a positive number of frames, such as 81, got {shown(frames)}")


def size_of(
    words: Sequence[Size], model: DiT, codec: Any, patches: Sequence[Patch]
) -> tuple[Size, tuple[int, ...]] | None:
    """What is asked for at once, in pixels and frames, and the latent; None where nobody says a size.

    Args:
      words: of every spec.
      codec: tells pixels of latents.
      patches: modes, all of which must divide the latent.

    Raises:
      UserError: several sizes at once; one that cannot be drawn exactly, where the nearest are named; or a model that
        draws its own alone.
    """
    if len(asked := set(words)) > 1:
        raise UserError("what is drawn in one call is of one size; call once for each size")
    size, aspect, clip = next(iter(asked), Size())
    if (size, aspect, clip) == Size():
        return None
    what = ", ".join(f"{key}={word!r}" for key, word in zip(Size._fields, (size, aspect, clip)) if word is not None)
    if codec is None:
        raise UserError(f"{what}: this model has no codec, which tells pixels of latents; FlexiDiT.sized takes latents")
    _, *latent, channels = model.latent
    drawn, *trained, _ = codec.data_shape(model.latent)
    trained = tuple(trained)
    clip = drawn if clip is None else clip
    frames = _latents_of(clip, drawn, model, codec)
    size = trained if size is None and aspect is None else size
    units = [
        pixels // side * math.lcm(*(patch[axis] for patch in patches))
        for axis, pixels, side in zip((1, 2), trained, latent, strict=True)
    ]
    if "height" not in model.free and size != trained:
        raise UserError(f"{what}: this model draws {_said(trained)} alone, since its positions count patches")
    if aspect is not None:
        size = _bin(aspect, trained, units)
    elif any(side % unit for side, unit in zip(size, units, strict=True)):
        near = (_near(side, unit) for side, unit in zip(size, units, strict=True))
        raise UserError(
            f"{what}: sides must be multiples of {_said(units)} pixels, a patch of the weakest mode; the nearest are"
            " a height of {} and a width of {}".format(*near)
        )
    _warn(size, trained)
    scales = [pixels // side for pixels, side in zip(trained, latent, strict=True)]
    sides = (side // scale for side, scale in zip(size, scales, strict=True))
    return Size(size, None, clip), (frames, *sides, channels)


def _latents_of(frames: int, drawn: int, model: DiT, codec: Any) -> int:
    """Frames of the latent of so many frames.

    Args:
      drawn: frames that the model was trained at.
    """
    if frames == drawn:
        return model.latent[0]
    if "frames" not in model.free:
        raise UserError(f"frames={frames}: this model draws {drawn} alone, since its positions count patches")
    _, *pixels = codec.data_shape(model.latent)
    below = codec.latent_shape((frames, *pixels))[0]
    counts = [codec.data_shape((latents, *model.latent[1:]))[0] for latents in (below, below + 1)]
    if frames not in counts:
        raise UserError(f"frames={frames}: a clip is of 4k + 1 frames; the nearest are {counts[0]} and {counts[1]}")
    if frames > drawn:
        note(f"{frames} frames are more than the {drawn} that this model was trained at; its clips may repeat")
    return below + counts.index(frames)


def _ratio(aspect: str) -> Fraction | None:
    """Height over width of `"3:2"`; None of what is none."""
    found = _RATIO.fullmatch(aspect)
    width, height = map(int, found.groups()) if found else (0, 0)
    return Fraction(height, width) if width and height else None


def _bin(aspect: str, trained: Sequence[int], units: Sequence[int]) -> tuple[int, int]:
    """The bin of the nearest key, of those whose sides can be drawn."""
    side = round(math.sqrt(math.prod(trained)))
    if not (sizes := bins(side, units)):
        raise UserError(f"aspect={aspect!r}: no bin of pictures of {side} pixels can be drawn; give a size")
    [number] = nearest_bins(sizes, [_ratio(aspect)])
    return sizes[number]


def _near(side: int, unit: int) -> str:
    """The sides below and above that can be drawn."""
    low = side // unit * unit
    return " or ".join(str(one) for one in ((low, low + unit) if side % unit else (side,)) if one)


def _warn(size: Sequence[int], trained: Sequence[int]) -> None:
    share, ratio = math.prod(size) / math.prod(trained), size[0] / size[1]
    if not (PIXELS[0] <= share <= PIXELS[1] and RATIOS[0] <= ratio <= RATIOS[1]):
        note(
            f"{_said(size)} is far from the {_said(trained)} that this model was trained at ({share:.2g} times the"
            " pixels); its pictures may repeat or fall apart"
        )


def _said(size: Sequence[int]) -> str:
    return "x".join(map(str, size))
