"""Pixels as latents."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.pixels import to_uint8
from flexidit_jax.common.types import Array


@dataclass(frozen=True)
class Codec:
    """Latents are pixels in [-1, 1]."""

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(F, H, W, C) of the latents for data of shape (F, H, W, C)."""
        return tuple(shape)

    def data_shape(self, latent: tuple[int, ...]) -> tuple[int, ...]:
        """The inverse of `latent_shape`."""
        return tuple(latent)

    def check(self) -> None:
        """Nothing can be missing."""

    def fingerprint(self) -> None:
        """There are no weights."""

    def encode(self, x: Array, key: Array | None = None) -> Array:
        """[B, F, H, W, C] data in [-1, 1] -> latents of the same shape; nothing is drawn with `key`."""
        return jnp.asarray(x)

    def decode(self, latents: Array) -> np.ndarray:
        """[B, F, H, W, C] latents -> uint8 of the same shape; see `common.pixels`."""
        return to_uint8(latents)
