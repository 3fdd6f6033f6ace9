"""Latents of records: encoded where records hold data, drawn where they hold a posterior made before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flexidit_jax.common.types import Array

#: keys of a record that are data, or what a codec made of it
DATA = ("x", "mean", "std")


def latents_of(codec: Any, batch: Mapping[str, Array], key: Array | None = None) -> Array:
    """Scaled latents [B, F, h, w, C] of a batch of records.

    Args:
      codec: see `codecs`.
      batch: `x` [B, F, H, W, C] in [-1, 1], or `mean` and `std` [B, F, h, w, C]. Data and the posterior that
        the codec made of it give, with one key, the same latents.
      key: a sample of the posterior; without, its mean.
    """
    if "x" in batch:
        return codec.encode(batch["x"], key)
    return codec.draw(batch["mean"], batch["std"], key)


def data_of(batch: Mapping[str, Array]) -> dict[str, Array]:
    """Of a batch of records what latents are made of."""
    return {key: batch[key] for key in DATA if key in batch}


def stacked(records: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Records as one batch."""
    return {key: np.stack([record[key] for record in records]) for key in records[0]}
