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

from flexidit_jax.common.arguments import shown, single
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
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, str):
        sides = [int(side) for side in value.split("x")] if re.fullmatch(r"[0-9]+(x[0-9]+){0,2}", value) else []
    else:
        sides = list(map(single, value)) if isinstance(value, (Sequence, np.ndarray, jax.Array)) else [value]
    integers = all(isinstance(side, int) and not isinstance(side, bool) for side in sides)
    if not integers or not 1 <= len(sides) <= 3 or not 1 <= min(sides) <= max(sides) < 2**31:
        raise UserError(f"patch {shown(value)} is not one to three positive integers, such as 4, (2, 4) or '2x4x4'")
    if len(sides) == 1:
        sides = sides * 2
    frames, height, width = [1, *sides][-3:]
    return int(frames), int(height), int(width)


def patch_name(patch: Patch) -> str:
    """The key of a mode in a parameter tree: (1, 4, 4) is `"1x4x4"`."""
    return "x".join(map(str, patch))


def short_patch_name(patch: Patch) -> str:
    """The shortest spelling `as_patch` reads back: (1, 4, 4) is `"4"`."""
    frames, height, width = patch
    if frames == 1:
        return str(height) if height == width else f"{height}x{width}"
    return patch_name(patch)
