"""Which bin each clip is read at: of those that it is long enough for, the one of the nearest ratio of sides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from flexidit_jax.data.captions import Pair
from flexidit_jax.data.clip_file import header
from flexidit_jax.data.headers import headers

#: of a clip that is too short for all of them
NONE = -1


def bins_of(folder: Path, pairs: Sequence[Pair], bins: Sequence[tuple[int, int, int]], fps: float) -> np.ndarray:
    """The numbers of bins, int32 [N], `NONE` where a clip is too short; headers are read.

    Of bins of the same ratio a clip is of the one of most frames, then of the first. A clip whose header cannot be read
    is put where most are, and counts as corrupt when it is read.

    Args:
      bins: frames, height and width of each.

    Raises:
      UserError: a clip cannot be read.
    """
    order = sorted(range(len(bins)), key=lambda number: -bins[number][0])

    def bin_of(frames: int, ratio: float) -> int:
        fitting = (number for number in order if bins[number][0] <= frames)
        return min(fitting, key=lambda number: abs(np.log(bins[number][1] / bins[number][2] / ratio)), default=NONE)

    said = headers(folder, pairs, header, "clips")
    found = np.array([NONE if one is None else bin_of(one.frames(fps), one.height / one.width) for one in said])
    unread = np.array([one is None for one in said])
    sound = found[found != NONE]
    found[unread] = np.bincount(sound).argmax() if len(sound) else 0
    return found.astype(np.int32)
