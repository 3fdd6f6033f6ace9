"""Where sequences lie in rows, as the blocks read it; `sampling.packing` makes the layouts."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.types import Array
from flexidit_jax.models.attention.kept import Kept
from flexidit_jax.models.attention.seen import Seen
from flexidit_jax.models.conditioning.condition import Context


class Layout(Protocol):
    """Where sequences lie in rows; hashable, every shape static."""

    def per_token(self, per_sequence: Array) -> Array:
        """[..., d], a vector per sequence -> [R, L, d], that vector at each of its tokens."""

    def segments(self) -> np.ndarray:
        """int32 [R, L]: two tokens of a row see each other where the numbers are equal."""

    def read(self, *tokens: Array) -> Array:
        """Arrays of the tokens of conditions, [B, M, ...], one a mode, in the rows of who reads them: [R, S, ...]."""

    def readers(self, *contexts: Context) -> Array:
        """The segment that reads each token of contexts, one a mode, int32 [R, S]; -1 of what is none."""


class Source(NamedTuple):
    """What the tokens of rows read of conditions.

    Attributes:
      contexts: one a mode; one where a row is one sequence.
      layout: of the rows.
      seen: who reads which; None where all read all.
    """

    contexts: tuple[Context, ...]
    layout: Layout | None
    seen: Seen | None

    def of(self, block: Array | int) -> Array | Kept:
        """What a block reads: tokens [R, S, d], or what is kept of them."""
        parts = [context.of(block) for context in self.contexts]
        return parts[0] if self.layout is None else jax.tree.map(self.layout.read, *parts)


def per_token(per_sequence: Array, layout: Layout | None) -> Array:
    """A vector per sequence as something that broadcasts against the tokens [R, L, d]."""
    return per_sequence[:, None] if layout is None else layout.per_token(per_sequence)


def seen_in(layout: Layout | None) -> Seen | None:
    """Who sees whom in rows; None where a row is one sequence."""
    return None if layout is None else Seen(layout.segments(), layout.segments())


def numbered(context: Context, number: Array | int) -> Array:
    """The number of every token of a condition, int32 [B, M], as `Seen` has it: -1 where there is none."""
    mask = True if context.mask is None else context.mask
    shape = jax.tree.leaves(context.of(0))[0].shape[:2]
    return jnp.broadcast_to(jnp.where(mask, number, -1), shape).astype(jnp.int32)


def source_in(layout: Layout | None, length: int, *contexts: Context) -> Source | None:
    """What rows of `length` tokens read of conditions; None where these have no tokens.

    Args:
      contexts: one a mode; one where a row is one sequence.
    """
    first = contexts[0]
    if not first.read:
        return None
    if layout is not None:
        finite = None if first.finite is None else layout.read(*(context.finite for context in contexts))
        return Source(contexts, layout, Seen(layout.segments(), layout.readers(*contexts), finite))
    if first.mask is None:
        return Source(contexts, None, None)
    return Source(contexts, None, Seen(np.zeros((1, length), np.int32), numbered(first, 0), first.finite))
