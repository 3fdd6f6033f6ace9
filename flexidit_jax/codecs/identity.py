"""Pixels as latents."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.types import Array


@dataclass(frozen=True)
class Codec:
    """Latents are pixels in [-1, 1]."""

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(F, H, W, C) of the latents for data of shape (F, H, W, C)."""
        return tuple(shape)

    def encode(self, x: Array) -> Array:
        """[B, F, H, W, C] data in [-1, 1] -> latents of the same shape."""
        return jnp.asarray(x)

    def decode(self, latents: Array) -> np.ndarray:
        """[B, F, H, W, C] latents -> uint8, `clip(127.5 x + 128, 0, 255)` truncated as the released DiT does."""
        return np.clip(127.5 * np.asarray(latents, np.float32) + 128, 0, 255).astype(np.uint8)
