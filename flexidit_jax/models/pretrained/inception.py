"""The Inception of 2015-12-05 that FID is defined by (Szegedy et al., arXiv 1512.00567), batch norms folded.

Images are [B, 299, 299, 3] in [-1, 1], channels last. Submodules carry the names of the published files, so that
`models.pretrained.inception_layout` is a rule and not a table. It differs from torchvision's in its weights and in
its pools: averages leave out the padding, and the last block's pool is a maximum.
"""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from flexidit_jax.common.types import Array

#: pixels along a side
SIDE = 299
#: channels of the map whose mean features leave out, as sFID reads them
SPATIAL_CHANNELS = 7


class Conv(nn.Module):
    """Convolution and ReLU; the bias is what is left of a batch norm.

    Attributes:
      kernel: height and width.
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", nn.initializers.he_normal(), (*self.kernel, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = lax.conv_general_dilated(
            x, kernel, (self.stride,) * 2, self.padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return nn.relu(y + bias)  # [B, H, W, features]


def chain(x: Array, branch: str, *layers: tuple[int, tuple[int, int]], first: int = 1) -> Array:
    """Convolutions `branch_1`, `branch_2`, ..., each of so many features and such a kernel."""
    for i, (features, kernel) in enumerate(layers, first):
        x = Conv(features, kernel, name=f"{branch}_{i}")(x)
    return x


def halved(x: Array, features: int, name: str) -> Array:
    """The convolution that ends a branch where a map becomes half as large."""
    return Conv(features, (3, 3), 2, "VALID", name=name)(x)


def max_pool(x: Array, stride: int, padding: str) -> Array:
    """Maximum over 3x3 pixels."""
    return nn.max_pool(x, (3, 3), (stride, stride), padding)


def average_pool(x: Array) -> Array:
    """Mean over those of 3x3 pixels that lie within the map."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def joined(*branches: Array) -> Array:
    """Branches side by side along channels."""
    return jnp.concatenate(branches, axis=-1)


class MixedA(nn.Module):
    """Blocks at 35x35, `Mixed_5b` to `Mixed_5d`."""

    pooled: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return joined(
            Conv(64, name="branch1x1")(x),
            chain(x, "branch5x5", (48, (1, 1)), (64, (5, 5))),
            chain(x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)), (96, (3, 3))),
            Conv(self.pooled, name="branch_pool")(average_pool(x)),
        )  # [B, 35, 35, 224 + pooled]


class HalvedA(nn.Module):
    """35x35 -> 17x17, `Mixed_6a`."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        double = chain(x, "branch3x3dbl", (64, (1, 1)), (96, (3, 3)))
        return joined(halved(x, 384, "branch3x3"), halved(double, 96, "branch3x3dbl_3"), max_pool(x, 2, "VALID"))


class MixedB(nn.Module):
    """Blocks at 17x17, `Mixed_6b` to `Mixed_6e`; also returns the first branch."""

    width: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        k, row, column = self.width, (1, 7), (7, 1)
        first = Conv(192, name="branch1x1")(x)
        x = joined(
            first,
            chain(x, "branch7x7", (k, (1, 1)), (k, row), (192, column)),
            chain(x, "branch7x7dbl", (k, (1, 1)), (k, column), (k, row), (k, column), (192, row)),
            Conv(192, name="branch_pool")(average_pool(x)),
        )
        return x, first  # [B, 17, 17, 768], [B, 17, 17, 192]


class HalvedB(nn.Module):
    """17x17 -> 8x8, `Mixed_7a`."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        single = chain(x, "branch3x3", (192, (1, 1)))
        seven = chain(x, "branch7x7x3", (192, (1, 1)), (192, (1, 7)), (192, (7, 1)))
        return joined(
            halved(single, 320, "branch3x3_2"), halved(seven, 192, "branch7x7x3_4"), max_pool(x, 2, "VALID")
        )  # [B, 8, 8, 1280]


class MixedC(nn.Module):
    """Blocks at 8x8, `Mixed_7b`, `Mixed_7c`.

    Attributes:
      maximum: whether the pool is a maximum.
    """

    maximum: bool

    @nn.compact
    def __call__(self, x: Array) -> Array:
        def forked(y: Array, row: str, column: str) -> Sequence[Array]:
            return Conv(384, (1, 3), name=row)(y), Conv(384, (3, 1), name=column)(y)

        pooled = max_pool(x, 1, "SAME") if self.maximum else average_pool(x)
        return joined(
            Conv(320, name="branch1x1")(x),
            *forked(chain(x, "branch3x3", (384, (1, 1))), "branch3x3_2a", "branch3x3_2b"),
            *forked(chain(x, "branch3x3dbl", (448, (1, 1)), (384, (3, 3))), "branch3x3dbl_3a", "branch3x3dbl_3b"),
            Conv(192, name="branch_pool")(pooled),
        )  # [B, 8, 8, 2048]


class Inception(nn.Module):
    """Parameters and everything else are float32, on every backend."""

    @nn.compact
    def __call__(self, x: Array) -> dict[str, Array]:
        """What scores read of images.

        Args:
          x: [B, 299, 299, 3], pixels as (value - 128) / 128.

        Returns:
          `pool` [B, 2048]; `spatial` [B, 17 * 17 * 7], rows, columns, channels; `logits` [B, 1008] without their bias.
        """
        with jax.default_matmul_precision("highest"):
            x = Conv(32, (3, 3), 2, "VALID", name="Conv2d_1a_3x3")(x)  # [B, 149, 149, 32]
            x = Conv(32, (3, 3), padding="VALID", name="Conv2d_2a_3x3")(x)  # [B, 147, 147, 32]
            x = max_pool(Conv(64, (3, 3), name="Conv2d_2b_3x3")(x), 2, "VALID")  # [B, 73, 73, 64]
            x = Conv(80, name="Conv2d_3b_1x1")(x)
            x = Conv(192, (3, 3), padding="VALID", name="Conv2d_4a_3x3")(x)  # [B, 71, 71, 192]
            x = max_pool(x, 2, "VALID")  # [B, 35, 35, 192]
            for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
                x = MixedA(pooled, name=name)(x)  # [B, 35, 35, 256], then 288
            x = HalvedA(name="Mixed_6a")(x)  # [B, 17, 17, 768]
            firsts = {}
            for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
                x, firsts[name] = MixedB(width, name=name)(x)
            x = HalvedB(name="Mixed_7a")(x)  # [B, 8, 8, 1280]
            x = MixedC(maximum=False, name="Mixed_7b")(x)
            x = MixedC(maximum=True, name="Mixed_7c")(x)  # [B, 8, 8, 2048]
            pool = x.mean(axis=(1, 2))
            logits = pool @ self.param("fc", nn.initializers.lecun_normal(), (2048, 1008))
        spatial = firsts["Mixed_6d"][..., :SPATIAL_CHANNELS]
        return {"pool": pool, "spatial": spatial.reshape(len(x), -1), "logits": logits}
