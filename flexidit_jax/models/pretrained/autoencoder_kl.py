"""The convolutional autoencoder that DiT's latents come from: SD-VAE f8 (latent diffusion, arXiv 2112.10752).

Images are [B, H, W, 3] in [-1, 1], latents [B, H/f, W/f, C], channels last. Submodules carry the names
of the published files (diffusers' AutoencoderKL) with `_` for the dot before a number, so that
`models.pretrained.autoencoder_kl_layout` is a rule and not a table.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp

from flexidit_jax.common.types import Array
from flexidit_jax.models.attention.xla import attend
from flexidit_jax.models.pretrained.stripes import Conv, GroupNorm

#: log variances are kept in this range before they become a standard deviation
LOG_VARIANCE = (-30.0, 20.0)


class Resnet(nn.Module):
    """Two convolutions around a skip, which is a 1x1 convolution where the width changes."""

    features: int
    groups: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = Conv(self.features, self.dtype, name="conv1")(x, GroupNorm(self.groups, name="norm1")(x))  # [B, H, W, d]
        if x.shape[-1] != self.features:
            x = Conv(self.features, self.dtype, side=1, name="conv_shortcut")(x)  # [B, H, W, d]
        return Conv(self.features, self.dtype, name="conv2")(h, GroupNorm(self.groups, name="norm2")(h), x)


class Attention(nn.Module):
    """One head over all positions."""

    groups: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, height, width, d = x.shape
        dense = partial(nn.Dense, d, dtype=self.dtype)
        h = GroupNorm(self.groups, name="group_norm")(x)(x).reshape(b, -1, 1, d)  # [B, HW, 1, d]
        q, k, v = (dense(name=name)(h) for name in ("to_q", "to_k", "to_v"))
        h = attend(q, k, v, None)  # [B, HW, 1, d]
        return x + dense(name="to_out_0")(h).reshape(b, height, width, d)  # [B, H, W, d]


class Middle(nn.Module):
    """Resnet, attention, resnet."""

    groups: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        resnet = partial(Resnet, x.shape[-1], self.groups, self.dtype)
        x = resnet(name="resnets_0")(x)
        x = Attention(self.groups, self.dtype, name="attentions_0")(x)
        return resnet(name="resnets_1")(x)  # [B, H, W, d]


class Down(nn.Module):
    """Halves the sides; zeros are padded below and to the right only."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        padding = ((0, 1), (0, 1))
        return nn.Conv(x.shape[-1], (3, 3), 2, padding, dtype=self.dtype, name="conv")(x)  # [B, H/2, W/2, d]


class Up(nn.Module):
    """Doubles the sides by repeating pixels, then convolves."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return Conv(x.shape[-1], self.dtype, double=True, name="conv")(x)  # [B, 2H, 2W, d]


class Level(nn.Module):
    """Resnets at one resolution, then a change of resolution except at the last level.

    Attributes:
      resample: name and module class of that change, None at the last level.
    """

    features: int
    resnets: int
    groups: int
    dtype: jnp.dtype
    resample: tuple[str, type[nn.Module]] | None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for i in range(self.resnets):
            x = Resnet(self.features, self.groups, self.dtype, name=f"resnets_{i}")(x)  # [B, H, W, d]
        if self.resample is None:
            return x
        name, module = self.resample
        return module(self.dtype, name=name)(x)  # [B, H/2, W/2, d] or [B, 2H, 2W, d]


class Encoder(nn.Module):
    """Images -> the features that `quant_conv` reads moments from."""

    widths: tuple[int, ...]
    resnets: int
    latent: int
    groups: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Conv(self.widths[0], self.dtype, name="conv_in")(x)  # [B, H, W, d0]
        for i, width in enumerate(self.widths):
            resample = None if i + 1 == len(self.widths) else ("downsamplers_0", Down)
            x = Level(width, self.resnets, self.groups, self.dtype, resample, name=f"down_blocks_{i}")(x)
        x = Middle(self.groups, self.dtype, name="mid_block")(x)  # [B, H/f, W/f, d]
        norm = GroupNorm(self.groups, name="conv_norm_out")(x)
        return Conv(2 * self.latent, self.dtype, name="conv_out")(x, norm)  # [B, H/f, W/f, 2C]


class Decoder(nn.Module):
    """What `post_quant_conv` makes of latents -> images."""

    widths: tuple[int, ...]
    resnets: int
    channels: int
    groups: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, z: Array) -> Array:
        x = Conv(self.widths[-1], self.dtype, name="conv_in")(z)  # [B, H/f, W/f, d]
        x = Middle(self.groups, self.dtype, name="mid_block")(x)
        for i, width in enumerate(reversed(self.widths)):
            resample = None if i + 1 == len(self.widths) else ("upsamplers_0", Up)
            x = Level(width, self.resnets, self.groups, self.dtype, resample, name=f"up_blocks_{i}")(x)
        norm = GroupNorm(self.groups, name="conv_norm_out")(x)
        return Conv(self.channels, self.dtype, name="conv_out")(x, norm)  # [B, H, W, 3]


class VAE(nn.Module):
    """The autoencoder; the defaults are those of the published SD-VAE.

    Parameters, norms and softmax are float32. `dtype` is that of the convolutions and products, and
    "float32" means float32 on every backend.

    Attributes:
      widths: channels of the levels, finest first; each level after the first halves the sides.
      resnets: a level of the encoder has this many, one of the decoder one more.
      latent: C, channels of the latents.
      channels: of the images.
      groups: of every group norm; divides every width.
    """

    widths: tuple[int, ...] = (128, 256, 512, 512)
    resnets: int = 2
    latent: int = 4
    channels: int = 3
    groups: int = 32
    dtype: str = "float32"

    def setup(self) -> None:
        dtype = jnp.dtype(self.dtype)
        self.encoder = Encoder(self.widths, self.resnets, self.latent, self.groups, dtype)
        self.decoder = Decoder(self.widths, self.resnets + 1, self.channels, self.groups, dtype)
        self.quant_conv = nn.Conv(2 * self.latent, (1, 1), dtype=dtype)
        self.post_quant_conv = nn.Conv(self.latent, (1, 1), dtype=dtype)

    @property
    def factor(self) -> int:
        """f, pixels per latent along a side."""
        return 2 ** (len(self.widths) - 1)

    def moments(self, x: Array) -> tuple[Array, Array]:
        """The posterior of images.

        Args:
          x: [B, H, W, channels] in [-1, 1]; f divides H and W.

        Returns:
          mean and standard deviation, [B, H/f, W/f, C] float32 each, unscaled.
        """
        with jax.default_matmul_precision(self._precision):
            h = self.quant_conv(self.encoder(x)).astype(jnp.float32)  # [B, H/f, W/f, 2C]
        mean, log_variance = jnp.split(h, 2, axis=-1)
        return mean, jnp.exp(0.5 * jnp.clip(log_variance, *LOG_VARIANCE))

    def decode(self, z: Array) -> Array:
        """Unscaled latents [B, h, w, C] -> images [B, f h, f w, channels] float32, about [-1, 1], not clipped."""
        with jax.default_matmul_precision(self._precision):
            return self.decoder(self.post_quant_conv(z)).astype(jnp.float32)  # [B, H, W, 3]

    def __call__(self, x: Array) -> Array:
        """Images through the mean of their posterior and back; initialisation runs this."""
        return self.decode(self.moments(x)[0])  # [B, H, W, 3]

    @property
    def _precision(self) -> str:
        return "highest" if jnp.dtype(self.dtype) == jnp.float32 else "default"
