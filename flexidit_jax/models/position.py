"""Where tokens lie: sin-cos features that are added, or angles by which queries and keys turn; diffusion times too."""

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
    axes = _centres(latent, patch, base_patch)
    if span is not None:
        axes[1:] = [axis * (span / cells) for axis, cells in zip(axes[1:], grid(latent, base_patch)[1:], strict=True)]
    time, row, column = (axis.ravel() for axis in np.meshgrid(*axes, indexing="ij"))
    embedding = np.concatenate([_sincos(column, width // 2), _sincos(row, width // 2)], axis=1)
    if latent[0] > 1:
        embedding = embedding + _sincos(time, width)
    return embedding.astype(np.float32)


@lru_cache
def rotations(latent: tuple[int, ...], patch: Patch, base_patch: Patch, size: int) -> np.ndarray:
    """Cosines and sines of the angles by which pairs of a head's columns turn (RoPE, arXiv 2104.09864; Wan 2.1).

    Coordinates are those of `position_embedding`. A head's columns are those of time, then rows, then columns, the
    last two with 2 (size // 6) each; within a part of m columns the frequencies are 1e4^(-2i/m).

    Args:
      latent, patch, base_patch: see `position_embedding`.
      size: columns of a head.

    Returns:
      [2, N, size / 2] float32, tokens row-major.
    """
    side = 2 * (size // 6)
    axes = np.meshgrid(*_centres(latent, patch, base_patch), indexing="ij")
    angles = [
        axis.reshape(-1, 1) / 1e4 ** (np.arange(part // 2) / (part / 2))
        for axis, part in zip(axes, (size - 2 * side, side, side), strict=True)
    ]
    angle = np.concatenate(angles, axis=1)
    return np.stack([np.cos(angle), np.sin(angle)]).astype(np.float32)


def _centres(latent: tuple[int, ...], patch: Patch, base_patch: Patch) -> list[np.ndarray]:
    """Of the patches along each axis, in units of p0: `(i + 1/2) p / p0 - 1/2`.

    A patch of frames lies at the mean of those frames that are none repeated before the first.
    """
    axes = []
    for n, size, p, p0 in zip(grid(latent, patch), latent, patch, base_patch, strict=False):
        begin = np.arange(n) * p - (n * p - size)
        axes.append((np.maximum(begin, 0) + begin + p) / 2 / p0 - 0.5)
    return axes


def timestep_features(t: Array, width: int = 256) -> Array:
    """[B] times in 0..T-1 -> [B, width] float32 as [cos | sin], frequencies exp(-ln(1e4) i / (width/2))."""
    frequency = jnp.exp(-np.log(1e4) * jnp.arange(width // 2, dtype=jnp.float32) / (width // 2))
    angle = t.astype(jnp.float32)[:, None] * frequency
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)], axis=1)
