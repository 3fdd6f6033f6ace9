"""The vision transformer of DINOv2 (Oquab et al., arXiv 2304.07193) without registers: images -> one vector each."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.types import Array
from flexidit_jax.models.pretrained.transformer import Block, gelu, norm, patches

EPSILON = 1e-6
#: what the width of a new grid counts as: the original code adds a tenth of a patch before it divides
EXTRA = {"hub": 0.1, "hf": 0.0}


def bicubic(size: int, new: int, extra: float) -> np.ndarray:
    """The matrix [new, size] that resizes one axis as torch's bicubic does: a = -0.75, 4 taps, no antialiasing.

    Args:
      extra: added to `new` where the step from one place to the next is found.
    """
    matrix = np.zeros((new, size))
    for i in range(new):
        place = (i + 0.5) * size / (new + extra) - 0.5
        first = int(np.floor(place)) - 1
        for tap in range(first, first + 4):
            matrix[i, min(max(tap, 0), size - 1)] += _cubic(abs(place - tap))
    return matrix.astype(np.float32)


def _cubic(distance: float, a: float = -0.75) -> float:
    """Keys' kernel."""
    if distance <= 1:
        return ((a + 2) * distance - (a + 3)) * distance**2 + 1
    return (((distance - 5) * distance + 8) * distance - 4) * a if distance < 2 else 0.0


class DinoV2(nn.Module):
    """Everything is float32, on every backend.

    Attributes:
      width, depth, heads, hidden: of the transformer and its MLPs.
      patch: pixels along a side of a patch.
      grid: patches along a side of the images that its positions were learned on.
      positions: how these are resized to another grid: "hub" as by the original code, "hf" as by the transformers
        library.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    patch: int
    grid: int
    positions: str = "hub"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The class token after the last norm.

        Args:
          x: [B, H, W, 3] images, normalised; the patch divides H and W.

        Returns:
          [B, width].
        """
        d, side = self.width, self.patch
        normal = nn.initializers.normal(0.02)
        first = self.param("class_token", normal, (1, 1, d))
        places = self.param("positions", normal, (1, 1 + self.grid**2, d))
        with jax.default_matmul_precision("highest"):
            tokens = patches(d, side)(x).reshape(len(x), -1, d)  # [B, N, d]
            tokens = tokens + self._resized(places[0, 1:], x.shape[1] // side, x.shape[2] // side)
            first = jnp.broadcast_to(first + places[:, :1], (len(x), 1, d))
            tokens = jnp.concatenate([first, tokens], axis=1)  # [B, 1 + N, d]
            for i in range(self.depth):
                tokens = Block(self.heads, self.hidden, EPSILON, gelu, scaled=True, name=f"block_{i}")(tokens)
            return norm(EPSILON, "norm")(tokens[:, 0])

    def _resized(self, places: Array, height: int, width: int) -> Array:
        """Positions [grid * grid, d] -> [height * width, d]."""
        if height == width == self.grid:
            return places
        rows, columns = (bicubic(self.grid, new, EXTRA[self.positions]) for new in (height, width))
        places = places.reshape(self.grid, self.grid, -1)
        return jnp.einsum("hi,wj,ijd->hwd", rows, columns, places).reshape(height * width, -1)
