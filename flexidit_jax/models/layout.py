"""Where sequences lie in rows, as the blocks read it; `sampling.packing` makes the layouts."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from flexidit_jax.common.types import Array
from flexidit_jax.models.attention.seen import Seen


class Layout(Protocol):
    """Where sequences lie in rows; hashable, every shape static."""

    def per_token(self, per_sequence: Array) -> Array:
        """[..., d], a vector per sequence -> [R, L, d], that vector at each of its tokens."""

    def segments(self) -> np.ndarray:
        """int32 [R, L]: two tokens of a row see each other where the numbers are equal."""


def per_token(per_sequence: Array, layout: Layout | None) -> Array:
    """A vector per sequence as something that broadcasts against the tokens [R, L, d]."""
    return per_sequence[:, None] if layout is None else layout.per_token(per_sequence)


def seen_in(layout: Layout | None) -> Seen | None:
    """Who sees whom in rows; None where a row is one sequence."""
    return None if layout is None else Seen(layout.segments(), layout.segments())
