"""From [-1, 1] to bytes, the same for every codec."""

from __future__ import annotations

import numpy as np

from flexidit_jax.common.types import Array


def to_uint8(x: Array) -> np.ndarray:
    """Images in [-1, 1] -> uint8, `clip(127.5 x + 128, 0, 255)` truncated as the released DiT does."""
    with np.errstate(over="ignore"):
        return np.clip(127.5 * np.asarray(x, np.float32) + 128, 0, 255).astype(np.uint8)
