"""Features of a text, which blocks read as tokens (PixArt-alpha, arXiv 2310.00426), and the size of the picture.

Without a mask (Wan 2.1) all tokens are read, and those behind a text are zeros, as its encoder leaves them.

What stands for no text are features too, those of an empty one: data, in a leaf that is never trained. Which of them
count is said by a convention: as many as the caption they stand for has tokens ("caption", PixArt's training and
sampling), or those that there are ("own", as for any other text).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.axes import laid
from flexidit_jax.common.build import positive
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Array
from flexidit_jax.models.conditioning.condition import NULL, Condition, Context
from flexidit_jax.models.layers import Dense, NumberEmbedding

MASKS = ("caption", "own")
#: how PixArt is sampled; its scale rises as that of FlexiDiT's table 1 does where less is spent
PIXART = {
    "steps": 20,
    "solver": {"name": "dpmpp_2m", "grid": "diffusers"},
    "guidance": ((0.58, 5.0), (0.65, 4.9), (0.72, 4.7), (0.79, 4.7), (0.85, 4.5)),
}
#: and Wan 2.1
WAN = {"steps": 50, "solver": {"name": "unipc", "grid": "diffusers"}, "guidance": 5.0}


class Conditioner(nn.Module):
    """Reads {"tokens": float32 [B, M, k], "mask": bool [B, M], "null": bool [B]}.

    With micro-conditions also {"resolution": float32 [B, 2], "aspect_ratio": float32 [B, 1]}, height and width in
    pixels and their ratio, which are a sample's own with or without a text.

    Attributes:
      width: d of the transformer.
      features: k, of a token.
      length: M, tokens of the longest text; a ready condition of fewer is padded.
      null_length: n, tokens that stand for no text; 0 where these are not known.
      null_mask: which of these count: "caption" (n is M), those that the mask of the caption has; "own", all n.
      mask: whether a text says which of its tokens are read.
      resolution: None, or with micro-conditions the height and width of conditions that name none.
      drop_rate: share of training texts replaced by none.
    """

    width: int
    features: int
    length: int
    null_length: int = 0
    null_mask: str = "own"
    mask: bool = True
    resolution: Sequence[int] | None = None
    drop_rate: float = 0.1

    def __post_init__(self) -> None:
        positive("model.conditioner", features=self.features, length=self.length)
        if self.null_mask not in MASKS or not 0 <= self.drop_rate <= 1:
            raise UserError(
                f"model.conditioner wants null_mask of {', '.join(MASKS)} and a drop_rate in [0, 1],"
                f" got {self.null_mask!r} and {self.drop_rate!r}"
            )
        exact = self.null_mask == "caption" and self.null_length
        if not 0 <= self.null_length <= self.length or (exact and self.null_length != self.length):
            which = f"{self.length} or 0" if exact else f"in 0..{self.length}"
            raise UserError(f"model.conditioner.null_length must be {which}, got {self.null_length!r}")
        if self.resolution is not None:
            sides = tuple(self.resolution)  # a list, as JSON has it, is no key of a program
            if len(sides) != 2 or min(sides) <= 0 or self.width % 3:
                raise UserError(
                    "model.conditioner.resolution must be a height and a width, of a model.width that is a multiple of"
                    f" 3, got {list(sides)} and {self.width}"
                )
            object.__setattr__(self, "resolution", sides)
        super().__post_init__()

    limits: ClassVar = {}

    @property
    def free(self) -> tuple[str, ...]:
        """See `models.conditioning`."""
        return () if self.mask else ("tokens",)

    @property
    def sampled(self) -> Mapping[str, Any]:
        """See `models.conditioning`."""
        return PIXART if self.mask else WAN

    @property
    def fields(self) -> tuple[str, ...]:
        """See `models.conditioning`."""
        return ("tokens", "mask", *self.own) if self.mask else ("tokens", *self.own)

    @property
    def own(self) -> tuple[str, ...]:
        """See `models.conditioning`."""
        return () if self.resolution is None else ("resolution", "aspect_ratio")

    @property
    def token_macs(self) -> int:
        """See `models.conditioning`."""
        return self.features * self.width + self.width**2

    def grown(self, rows: float, columns: float) -> Conditioner:
        """For pictures so many times as high and as wide."""
        if self.resolution is None:
            return self
        height, width = self.resolution
        return self.clone(resolution=(height * rows, width * columns))

    @nn.compact
    def __call__(self, cond: Condition) -> Context:
        tokens, mask = self._with_null(cond)
        init = nn.initializers.normal(0.02)
        h = laid(Dense(self.width, jnp.float32, init, name="fc1")(tokens), "records", None, "heads")
        h = nn.gelu(h, approximate=True)
        tokens = laid(Dense(self.width, jnp.float32, init, name="fc2")(h), "records")  # [B, M, d]
        if self.resolution is None:
            return Context(None, tokens, mask)
        size = NumberEmbedding(self.width // 3, name="resolution_embedding")
        ratio = NumberEmbedding(self.width // 3, name="aspect_ratio_embedding")
        height, width = cond["resolution"][:, 0], cond["resolution"][:, 1]
        vector = jnp.concatenate([size(height), size(width), ratio(cond["aspect_ratio"][:, 0])], axis=-1)
        return Context(vector, tokens, mask)  # [B, d], [B, M, d], [B, M]

    def _with_null(self, cond: Condition) -> tuple[Array, Array | None]:
        """Features and mask, where null is set those of no text; NaN where these are not known."""
        null, tokens, mask = cond[NULL][:, None], cond["tokens"], cond.get("mask")
        if not self.null_length:
            return jnp.where(null[..., None], jnp.nan, tokens), mask
        init = nn.initializers.normal(self.features**-0.5)
        empty = self.param("null", init, (self.null_length, self.features), jnp.float32)
        empty = jnp.pad(empty, ((0, tokens.shape[1] - self.null_length), (0, 0)))
        if self.mask and self.null_mask == "own":
            mask = jnp.where(null, np.arange(tokens.shape[1]) < self.null_length, mask)
        return jnp.where(null[..., None], empty, tokens), mask

    def parse(self, asked: Sequence[Any]) -> Condition:
        """Features [m, k] of at most `length` tokens each, or None for no text.

        Raises:
          UserError: anything else.
        """
        if isinstance(asked, str) or not isinstance(asked, Sequence) or not len(asked):
            found = type(asked).__name__
            raise UserError(f"texts must be a list of features [m, {self.features}] or None, got {found}")
        cond = {
            "tokens": np.zeros((len(asked), self.length, self.features), np.float32),
            "mask": np.zeros((len(asked), self.length), bool),
            NULL: np.array([text is None for text in asked]),
        }
        for i, text in enumerate(asked):
            if isinstance(text, str):
                raise UserError(f"a text is read as features [m, {self.features}] of its encoder, got {text[:40]!r}")
            count, *features = np.shape(text) or (0,)
            if text is None:
                count = self.length
            elif features != [self.features] or not 0 < count <= self.length:
                found = list(np.shape(text))
                raise UserError(
                    f"features of text {i} must be [m, {self.features}] with m in 1..{self.length}, got {found}"
                )
            else:
                cond["tokens"][i, :count] = text
            cond["mask"][i, :count] = True
        if not self.mask:
            del cond["mask"]
        return {**cond, **self._of_size(len(asked))}

    def _of_size(self, count: int) -> Condition:
        """What is said of pictures of the size, with micro-conditions."""
        if self.resolution is None:
            return {}
        height, width = self.resolution
        return {
            "resolution": np.full((count, 2), self.resolution, np.float32),
            "aspect_ratio": np.full((count, 1), height / width, np.float32),
        }

    def completed(self, given: Mapping[str, np.ndarray | None]) -> dict[str, np.ndarray | None]:
        """A ready condition, its tokens padded to `length`.

        All tokens are read where it has no mask, and none is added where the model has none; with micro-conditions, of
        what it says nothing the size decides.

        Raises:
          UserError: no text where the model has nothing that stands for it, a text without tokens, or not
            as many tokens as the mask has.
        """
        if not self.null_length and np.any(given[NULL]):
            raise UserError(
                "this model has nothing that stands for no text; load weights that hold y_embedding, or with"
                " null='empty' and text= its text encoder"
            )
        given = {**self._of_size(len(given[NULL])), **given}
        tokens = given.get("tokens")
        if not self.mask:
            return given
        if tokens is not None and "mask" not in given:
            given["mask"] = np.ones(tokens.shape[:2], bool)
        mask = given.get("mask")
        if tokens is None or mask is None or (tokens.ndim, mask.ndim) != (3, 2):
            return given  # which is refused
        count, masked = tokens.shape[1], mask.shape[1]
        if count != masked or count > self.length:
            raise UserError(
                f"tokens and mask of the condition must be as many, at most {self.length}, got {count} and {masked}"
            )
        if not (some := np.any(mask, axis=1)).all():
            raise UserError(
                f"mask of the condition has no token of text {np.argmin(some)}; an empty text has its end token"
            )
        if count == self.length:
            return given
        missing = (0, self.length - count)
        return {**given, "tokens": np.pad(tokens, ((0, 0), missing, (0, 0))), "mask": np.pad(mask, ((0, 0), missing))}
