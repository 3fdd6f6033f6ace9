"""Patches: cutting a latent into tokens, and resizing the kernels that read and write them.

One *underlying* kernel is stored at patch p' (the axis-wise maximum of all modes) and projected to
the patch in use (FlexiDiT section 3.1). With `B[a->b]` the 1-D resizing matrix of `resize_matrix`:

    embed     stored w: [p'.., Cin, d]    used  w_p = Q_p w,  Q_p = (B[p'->p]^T)^+
    de-embed  stored w: [d, p'.., Cout]   used  w_p = w Q_p,  Q_p = (B[p->p']^+)^T

and a pre-trained kernel at p0 is lifted to p' with `Q_p0^+`, so that `Q_p0 Q_p0^+ = I` makes the
flexible model equal to the pre-trained one at p0.

Decisions. Shrinking averages over areas: at ratio 2 that *is* bilinear interpolation without
antialiasing, the paper's operator, and at larger ratios no pixel is skipped. The paper's "flipped
dimensions" for the de-embed is read as `(B[p->p']^+)^T`, which makes an untrained weak mode paint
the bilinear upsampling of the powerful one; the other reading, `B[p'->p]^+`, would quarter it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import lax

from flexidit_jax.common.arguments import finite_array
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Array, Patch, short_patch_name


@lru_cache
def resize_matrix(a: int, b: int) -> np.ndarray:
    """`B[a->b]`: a signal of length a resized to length b is `B @ signal`.

    Returns:
      [b, a] float64, rows summing to 1. Linear with half-pixel centres for b > a, area averages
      for b < a.
    """
    matrix = np.zeros((b, a))
    if b > a:
        centre = np.clip((np.arange(b) + 0.5) * a / b - 0.5, 0, a - 1)
        left = np.minimum(np.floor(centre).astype(int), max(a - 2, 0))
        matrix[np.arange(b), left] += 1 - (centre - left)
        matrix[np.arange(b), np.minimum(left + 1, a - 1)] += centre - left
    else:
        edges = np.arange(b + 1) * a / b
        pixel = np.arange(a)
        overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
        matrix = np.clip(overlap, 0, None) * b / a
    return matrix


@lru_cache
def embed_matrix(stored: int, used: int) -> np.ndarray:
    """`Q_p` of the embed along one axis, [used, stored]; `w_p = Q_p w`."""
    return np.linalg.pinv(resize_matrix(stored, used).T)


@lru_cache
def deembed_matrix(stored: int, used: int) -> np.ndarray:
    """`Q_p` of the de-embed along one axis, [stored, used]; `w_p = w Q_p`."""
    return np.linalg.pinv(resize_matrix(used, stored)).T


def _along_axes(kernel: Array, matrices: list[np.ndarray], first_axis: int) -> Array:
    """Multiplies three consecutive axes of `kernel` by one [out, in] matrix each."""
    for axis, matrix in enumerate(matrices, start=first_axis):
        if matrix.shape[0] == matrix.shape[1]:
            continue  # the same length: B is the identity
        moved = jnp.tensordot(jnp.asarray(matrix, jnp.float32), kernel, (1, axis), precision=lax.Precision.HIGHEST)
        kernel = jnp.moveaxis(moved, 0, axis)
    return kernel


def project_embed(kernel: Array, patch: Patch) -> Array:
    """The embed kernel of a mode: [p'.., Cin, d] -> [p.., Cin, d]."""
    return _along_axes(kernel, [embed_matrix(s, u) for s, u in zip(kernel.shape[:3], patch, strict=True)], 0)


def lift_embed(kernel: Array, underlying: Patch) -> Array:
    """The underlying embed kernel of a pre-trained one: [p0.., Cin, d] -> [p'.., Cin, d]."""
    matrices = [np.linalg.pinv(embed_matrix(s, u)) for s, u in zip(underlying, kernel.shape[:3], strict=True)]
    return _along_axes(kernel, matrices, 0)


def project_deembed(array: Array, patch: Patch) -> Array:
    """The de-embed kernel [d, p'.., Cout] or bias [p'.., Cout] of a mode, p' replaced by p."""
    first = array.ndim - 4
    sides = array.shape[first : first + 3]
    return _along_axes(array, [deembed_matrix(s, u).T for s, u in zip(sides, patch, strict=True)], first)


def lift_deembed(array: Array, underlying: Patch) -> Array:
    """The underlying de-embed kernel or bias of a pre-trained one, p0 replaced by p'."""
    first = array.ndim - 4
    sides = array.shape[first : first + 3]
    matrices = [np.linalg.pinv(deembed_matrix(s, u)).T for s, u in zip(underlying, sides, strict=True)]
    return _along_axes(array, matrices, first)


def underlying_patch(patches: Iterable[Patch]) -> Patch:
    """p', the axis-wise maximum of all modes."""
    frames, height, width = (max(sides) for sides in zip(*patches, strict=True))
    return frames, height, width


def grid(latent: tuple[int, ...], patch: Patch) -> tuple[int, int, int]:
    """Tokens per axis of a latent [F, H, W, ...].

    Decision: where a patch does not divide the frames, the first is repeated before them (`first_frames`). A causal
    codec's first latent holds one frame of the clip, all others several, so that it is what may count twice.

    Raises:
      UserError: the patch does not divide height or width, or has more frames than the latent.
    """
    frames, height, width = (-(-size // side) for size, side in zip(latent, patch, strict=False))
    if patch[0] > latent[0] or any(size % side for size, side in zip(latent[1:], patch[1:], strict=False)):
        raise UserError(
            f"patch {short_patch_name(patch)} does not divide the latent {'x'.join(map(str, latent[:3]))}"
            " (frames x height x width)"
        )
    return frames, height, width


def first_frames(frames: int, patch: Patch) -> int:
    """How often the first frame is repeated before all of them, so that the patch divides them."""
    return -frames % patch[0]


def tokens(latent: tuple[int, ...], patch: Patch) -> int:
    """N, the sequence length of a latent at a patch."""
    return int(np.prod(grid(latent, patch)))


def patchify(x: Array, patch: Patch) -> Array:
    """[B, F, H, W, C] -> [B, N, pf ph pw C]; tokens row-major, inside a patch (frame, row, column, channel)."""
    b, *sizes, c = x.shape
    f, h, w = grid(tuple(sizes), patch)
    pf, ph, pw = patch
    if before := first_frames(sizes[0], patch):
        x = jnp.concatenate([jnp.repeat(x[:, :1], before, axis=1), x], axis=1)
    x = x.reshape(b, f, pf, h, ph, w, pw, c)
    x = x.transpose(0, 1, 3, 5, 2, 4, 6, 7)  # [B, f, h, w, pf, ph, pw, C]
    return x.reshape(b, f * h * w, pf * ph * pw * c)


def unpatchify(x: Array, patch: Patch, latent: tuple[int, ...]) -> Array:
    """[B, N, pf ph pw C] -> [B, F, H, W, C] for a latent [F, H, W, ...]; inverse of `patchify`."""
    f, h, w = grid(latent, patch)
    pf, ph, pw = patch
    x = x.reshape(x.shape[0], f, h, w, pf, ph, pw, -1)
    x = x.transpose(0, 1, 4, 2, 5, 3, 6, 7)  # [B, f, pf, h, ph, w, pw, C]
    return x.reshape(x.shape[0], f * pf, h * ph, w * pw, -1)[:, first_frames(latent[0], patch) :]


def as_video(x: Array, latent: tuple[int, ...], name: str, free: Sequence[str] = ()) -> Array:
    """x [B, H, W, C] or [B, F, H, W, C] as [B, F, H, W, C].

    Args:
      name: what x is called, for the message.
      free: which of frames, height and width may be others than those of the latent.

    Raises:
      UserError: of another latent shape, or not finite.
    """
    x = finite_array(x, name)
    shape, sides = np.shape(x), dict(zip(("frames", "height", "width"), latent, strict=False))
    found = shape[:1] + (1,) * (sides["frames"] == 1 and len(shape) == 4) + shape[1:]  # an image without its one frame
    if len(found) == 5 and min(shape) > 0:
        there = dict(zip(sides, found[1:], strict=False))
        if {**sides, **{side: there[side] for side in free}} == there and found[-1] == latent[-1]:
            return x.reshape(found)
    named = [side if side in free else size for side, size in sides.items()]
    wanted = ", ".join(map(str, ("B", *named[sides["frames"] == 1 and "frames" not in free :], latent[-1])))
    raise UserError(f"{name} must have shape [{wanted}], got {list(shape)}")
