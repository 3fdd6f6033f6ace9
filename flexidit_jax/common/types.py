"""Array names and the two types every floor agrees on: `Patch` and `Prediction`.

Dimension letters used in comments throughout: B batch, F frames, H height, W width, C channels,
N tokens, d width of the transformer, L blocks, T diffusion steps.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from flexidit_jax.common.errors import UserError

Array: TypeAlias = jax.Array | np.ndarray
Params: TypeAlias = dict[str, Any]
Patch: TypeAlias = tuple[int, int, int]


class Prediction(NamedTuple):
    """What a denoiser says about x_t.

    Attributes:
      output: eps (or velocity), shaped like x.
      variance: the raw v that interpolates the log variance, shaped like x; None when not learned.
    """

    output: Array
    variance: Array | None


def as_patch(value: int | str | Sequence[int]) -> Patch:
    """Reads a patch size: `2` is (1, 2, 2), `(2, 4)` is (1, 2, 4), `"2x4x4"` is (2, 4, 4).

    Raises:
      UserError: not one to three positive integers.
    """
    sides: Sequence[int]
    if isinstance(value, str):
        if not re.fullmatch(r"\d+(x\d+){0,2}", value):
            raise UserError(f"patch {value!r} is not of the form 4, 2x4 or 1x4x4")
        sides = [int(side) for side in value.split("x")]
    elif isinstance(value, (int, np.integer)):
        sides = [int(value)]
    else:
        sides = [int(side) for side in value]
    if len(sides) == 1:
        sides = [1, sides[0], sides[0]]
    elif len(sides) == 2:
        sides = [1, *sides]
    if len(sides) != 3 or min(sides) < 1:
        raise UserError(f"patch {value!r} must be one to three positive integers, such as 4 or (1, 4, 4)")
    return sides[0], sides[1], sides[2]


def patch_name(patch: Patch) -> str:
    """The key of a mode in a parameter tree: (1, 4, 4) is `"1x4x4"`."""
    return "x".join(map(str, patch))


def short_patch_name(patch: Patch) -> str:
    """The shortest spelling `as_patch` reads back: (1, 4, 4) is `"4"`."""
    frames, height, width = patch
    if frames == 1:
        return str(height) if height == width else f"{height}x{width}"
    return patch_name(patch)
