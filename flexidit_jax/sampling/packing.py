"""Two predictions of two lengths in one step: four ways to lay the tokens out (FlexiDiT App. B.2, Fig. 12).

A powerful conditional prediction reads N tokens an image, its weak guide n. With B images:

    separate   [B, N] and [B, n]        one call a mode: the fewest FLOPs
    padded     [2B, N]                  every short sequence padded to the long length
    joined     [B, N + n]               an image's long and short sequence in one row
    packed     [B + ceil(B / k), N]     k = N // n short sequences a row

All four compute the same prediction. Modes that share their blocks still differ in patch embedding,
embed, de-embed and norms: the ends run mode by mode, and in the blocks the modulation, which holds a mode's norms,
is handed to the tokens of its sequence. Attention stays inside
*segments*, numbers that a layout gives every token of a row: a mask here, and what a kernel that reads
segment ids wants. Padding is a segment of its own, so no softmax is ever empty.

Adapters give every mode other kernels: such modes run "separate" only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.common.types import Array, Params, Patch, Prediction
from flexidit_jax.models.conditioning.condition import Condition, Context
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flops import forward_flops, pair_flops, text_tokens
from flexidit_jax.models.layout import numbered
from flexidit_jax.models.modulation import Modulations
from flexidit_jax.models.patch import tokens

#: fewest FLOPs first
LAYOUTS = ("separate", "packed", "joined", "padded")


@dataclass(frozen=True)
class PairLayout:
    """B long and B short sequences, laid out in R rows of L tokens: a `models.layout.Layout`.

    Attributes:
      batch, long, short: B, N and n.
    """

    batch: int
    long: int
    short: int

    def join(self, long: Array, short: Array) -> Array:
        """[B, N, d] and [B, n, d] -> [R, L, d]."""
        raise NotImplementedError

    def per_token(self, per_sequence: Array) -> Array:
        """[2, B, d] (long, short) -> [R, L, d]: copies and no gather, so the compiler fuses it into its reader."""

        def repeated(vectors: Array, length: int) -> Array:
            return jnp.broadcast_to(vectors[:, None], (self.batch, length, vectors.shape[-1]))

        long, short = per_sequence
        return self.join(repeated(long, self.long), repeated(short, self.short))


@dataclass(frozen=True)
class StackedRows(PairLayout):
    """B long rows, then rows that hold `share` short sequences each: 1 pads, N // n packs."""

    share: int

    @property
    def shape(self) -> tuple[int, int]:
        """(R, L)."""
        return self.batch - (-self.batch // self.share), self.long

    def join(self, long: Array, short: Array) -> Array:
        """[B, N, d] and [B, n, d] -> [R, L, d]."""
        rows, width = self.shape[0] - self.batch, short.shape[-1]
        short = jnp.pad(short, ((0, rows * self.share - self.batch), (0, 0), (0, 0)))  # fill the last row
        short = short.reshape(rows, self.share * self.short, width)
        short = jnp.pad(short, ((0, 0), (0, self.long - self.share * self.short), (0, 0)))  # fill every row
        return jnp.concatenate([long, short])

    def split(self, rows: Array) -> tuple[Array, Array]:
        """The inverse of `join`."""
        short = rows[self.batch :, : self.share * self.short]
        return rows[: self.batch], short.reshape(-1, self.short, rows.shape[-1])[: self.batch]

    def segments(self) -> np.ndarray:
        """See `models.layout.Layout`."""
        rows = self.shape[0] - self.batch
        packed = np.minimum(np.arange(self.long) // self.short, self.share)
        return np.concatenate([np.zeros((self.batch, self.long)), np.tile(packed, (rows, 1))]).astype(np.int32)

    def read(self, long: Array, short: Array, blank: int = 0) -> Array:
        """See `models.layout.Layout`: a long row has its own condition, a short one those of its sequences."""
        rows, length = self.shape[0] - self.batch, short.shape[1]

        def filled(array: Array, axis: int, more: int) -> Array:
            sides = [(0, more if i == axis else 0) for i in range(array.ndim)]
            return jnp.pad(array, sides, constant_values=blank)

        short = filled(short, 0, rows * self.share - self.batch)
        short = short.reshape(rows, self.share * length, *short.shape[2:])
        return jnp.concatenate([filled(long, 1, (self.share - 1) * length), short])

    def readers(self, long: Context, short: Context) -> Array:
        """See `models.layout.Layout`."""
        place = (jnp.arange(self.batch) % self.share)[:, None]
        return self.read(numbered(long, 0), numbered(short, place), -1)

    @property
    def conditions(self) -> int:
        """Of a row."""
        return self.share


@dataclass(frozen=True)
class JoinedRows(PairLayout):
    """B rows, each an image's long sequence followed by its short one."""

    @property
    def shape(self) -> tuple[int, int]:
        """(R, L)."""
        return self.batch, self.long + self.short

    def join(self, long: Array, short: Array) -> Array:
        """[B, N, d] and [B, n, d] -> [R, L, d]."""
        return jnp.concatenate([long, short], axis=1)

    def split(self, rows: Array) -> tuple[Array, Array]:
        """The inverse of `join`."""
        return rows[:, : self.long], rows[:, self.long :]

    def segments(self) -> np.ndarray:
        """See `models.layout.Layout`."""
        return np.tile(np.arange(self.long + self.short) >= self.long, (self.batch, 1)).astype(np.int32)

    def read(self, long: Array, short: Array) -> Array:
        """See `models.layout.Layout`: an image's condition, then its guide's."""
        return self.join(long, short)

    def readers(self, long: Context, short: Context) -> Array:
        """See `models.layout.Layout`."""
        return self.join(numbered(long, 0), numbered(short, 1))

    @property
    def conditions(self) -> int:
        """Of a row."""
        return 2


def layout_of(packing: str, batch: int, long: int, short: int) -> StackedRows | JoinedRows | None:
    """The rows of a layout; None for "separate", which has none."""
    if packing == "padded":
        return StackedRows(batch, long, short, share=1)
    if packing == "packed":
        return StackedRows(batch, long, short, share=long // short)
    return JoinedRows(batch, long, short) if packing == "joined" else None


def check_packing(packing: str) -> None:
    """Refuses a word that is none.

    Raises:
      UserError: naming the nearest.
    """
    if packing not in ("auto", *LAYOUTS):
        raise UserError(f"no packing {packing!r}{nearest(str(packing), ('auto', *LAYOUTS))}")


def choices(packing: str, adapters: bool) -> Sequence[str]:
    """The layouts that a user's word leaves to choose from; "auto" leaves all that the model can run.

    Raises:
      UserError: no such word, or rows shared by two modes whose kernels are not.
    """
    check_packing(packing)
    if packing == "auto":
        return LAYOUTS[:1] if adapters else LAYOUTS
    if adapters and packing != "separate":
        raise UserError(
            f"packing={packing!r} runs two modes through the same kernels, but adapters give each its own;"
            ' use packing="separate" (or "auto")'
        )
    return (packing,)


def layout_flops(packing: str, model: DiT, cond: Patch, guide: Patch, batch: int) -> int:
    """FLOPs that a layout executes for both predictions of a batch, padding included."""
    layout = layout_of(packing, batch, tokens(model.latent, cond), tokens(model.latent, guide))
    if layout is None:
        return batch * (forward_flops(model, cond) + forward_flops(model, guide))
    return pair_flops(model, cond, guide, batch, *layout.shape, layout.conditions * text_tokens(model))


def predict_pair(
    packing: str,
    models: tuple[DiT, DiT],
    params: tuple[Params, Params],
    x: Array,
    t: Array,
    conds: tuple[Condition | Context, Condition | Context],
    modulations: tuple[Modulations, Modulations],
) -> tuple[Prediction, Prediction]:
    """The conditional prediction and that of its weaker guide, each with a condition of its own.

    Args:
      packing: a name of `LAYOUTS`.
      models: the modes, the first with at least as many tokens.
      params: their plain parameters; except for "separate" with the same blocks but for the norms.
      x, t, conds: see `DiT`.
      modulations: of each, at t and its condition.
    """
    each = list(zip(models, params, conds, modulations, strict=True))
    if packing == "separate":
        return tuple(model.apply({"params": tree}, x, t, cond, made) for model, tree, cond, made in each)
    sequences = [model.apply({"params": tree}, x, method="tokens") for model, tree, _, _ in each]
    layout = layout_of(packing, *sequences[0].shape[:2], sequences[1].shape[1])
    rows = models[0].apply(
        {"params": params[0]},
        layout.join(*sequences),  # [R, L, d]
        jnp.stack([made.blocks for made in modulations], 1),  # [L, 2, B, 6, d]
        layout,
        _rope_in(layout, models),
        *(model.apply({"params": tree}, cond, method="context") for model, tree, cond, _ in each),
        method="trunk",
    )
    ends = zip(models, params, layout.split(rows), modulations, strict=True)
    return tuple(model.apply({"params": tree}, part, made.last, method="read") for model, tree, part, made in ends)


def _rope_in(layout: StackedRows | JoinedRows, models: tuple[DiT, DiT]) -> Array | None:
    """By what the tokens of rows turn, [2, R, L, e/2]; None where they do not."""
    turns = [model.rope for model in models]
    if turns[0] is None:
        return None
    rows = [[np.broadcast_to(part, (layout.batch, *part.shape)) for part in each] for each in turns]
    return jnp.stack([layout.join(long, short) for long, short in zip(*rows, strict=True)])
