"""Fixed sin-cos features: token positions and diffusion times."""

from __future__ import annotations

from functools import lru_cache

import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.types import Array, Patch
from flexidit_jax.models.patch import grid


def _sincos(coordinate: np.ndarray, width: int) -> np.ndarray:
    """[N] -> [N, width] as [sin | cos], frequencies 1e4^(-2i/width), float64."""
    frequency = 1 / 1e4 ** (np.arange(width // 2) / (width / 2))
    angle = coordinate[:, None] * frequency
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)


@lru_cache
def position_embedding(
    latent: tuple[int, ...], patch: Patch, base_patch: Patch, width: int, span: float | None = None
) -> np.ndarray:
    """Positions at patch centres, in units of the pre-trained patch grid (FlexiDiT section 3.1).

    The centre of the i-th patch lies at `(i + 1/2) p / p0 - 1/2`, so at p0 these are DiT's integers.
    As in DiT the *width* coordinate fills the first half of the features.

    Decision: a latent of more than one frame adds a full-width sin-cos of the time coordinate;
    splitting the width over three axes would break parity for images.

    Args:
      latent: (F, H, W, ...) of this input.
      patch, base_patch: in use and p0.
      width: d.
      span: rows and columns are spread over so many units, whatever their number (PixArt-alpha); None: a unit is a
        patch p0.

    Returns:
      [N, width] float32, tokens row-major.
    """
    axes = [
        (np.arange(n) + 0.5) * p / p0 - 0.5 for n, p, p0 in zip(grid(latent, patch), patch, base_patch, strict=True)
    ]
    if span is not None:
        axes[1:] = [axis * (span / cells) for axis, cells in zip(axes[1:], grid(latent, base_patch)[1:], strict=True)]
    time, row, column = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    embedding = np.concatenate([_sincos(column, width // 2), _sincos(row, width // 2)], axis=1)
    if latent[0] > 1:
        embedding = embedding + _sincos(time, width)
    return embedding.astype(np.float32)


def timestep_features(t: Array, width: int = 256) -> Array:
    """[B] times in 0..T-1 -> [B, width] float32 as [cos | sin], frequencies exp(-ln(1e4) i / (width/2))."""
    frequency = jnp.exp(-np.log(1e4) * jnp.arange(width // 2, dtype=jnp.float32) / (width // 2))
    angle = t.astype(jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)
