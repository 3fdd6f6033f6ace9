"""The causal video autoencoder that Wan 2.1 denoises the latents of (arXiv 2503.20314): 4x8x8 pixels to a latent.

Clips are [B, 1 + 4k, H, W, 3] in [-1, 1], latents [B, 1 + k, H/8, W/8, C], channels last. The first frame has a latent
of its own, and no frame depends on a later one. So a clip may be coded whole, or in pieces: each layer then remembers
the last frames it read, in the collection `past`. Submodules carry the names of the published files with `_` for the
dot before a number.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from flexidit_jax.common.types import Array
from flexidit_jax.models.pretrained.autoencoder_kl import LOG_VARIANCE

#: the collection of what layers remember between the pieces of a clip
PAST = "past"


def after_past(module: nn.Module, x: Array, frames: int) -> Array:
    """x [B, F, H, W, C] behind the `frames` frames before it, zeros before the first: [B, frames + F, H, W, C]."""
    shape = (x.shape[0], frames, *x.shape[2:])
    if not module.is_mutable_collection(PAST):
        return jnp.concatenate([jnp.zeros(shape, x.dtype), x], 1)
    past = module.variable(PAST, "frames", jnp.zeros, shape, x.dtype)
    whole = jnp.concatenate([past.value, x], 1)
    past.value = whole[:, -frames:]
    return whole


class Causal(nn.Module):
    """A convolution over time and space that keeps the size; over time it reads the frames before."""

    features: int
    kernel: tuple[int, int, int] = (3, 3, 3)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        time, *sides = self.kernel
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (*self.kernel, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        frames = x.shape[1]
        if time > 1:
            x = after_past(self, x, time - 1)  # [B, time - 1 + F, H, W, C]
        if not frames:  # the first piece of what its first frame passes by
            return jnp.zeros((x.shape[0], 0, *x.shape[2:4], self.features), x.dtype)
        padding = [(0, 0), *((side // 2, side // 2) for side in sides)]
        layout = ("NDHWC", "DHWIO", "NDHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1, 1), padding, dimension_numbers=layout) + bias


class Norm(nn.Module):
    """Each position divided by its root mean square over channels, times a weight."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        gamma = self.param("gamma", nn.initializers.ones, (x.shape[-1],))
        length = jnp.linalg.norm(x, axis=-1, keepdims=True)
        return x / jnp.maximum(length, 1e-12) * x.shape[-1] ** 0.5 * gamma


class Resnet(nn.Module):
    """Two convolutions around a skip, which is a 1x1x1 convolution where the width changes."""

    features: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        h = Causal(self.features, name="conv1")(nn.silu(Norm(name="norm1")(x)))  # [B, F, H, W, d]
        h = Causal(self.features, name="conv2")(nn.silu(Norm(name="norm2")(h)))  # [B, F, H, W, d]
        if x.shape[-1] != self.features:
            x = Causal(self.features, (1, 1, 1), name="conv_shortcut")(x)  # [B, F, H, W, d]
        return x + h


class Attention(nn.Module):
    """One head over all positions of a frame; frames do not see each other."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        b, frames, *_, d = x.shape
        h = nn.Conv(3 * d, (1, 1), name="to_qkv")(Norm(name="norm")(x))  # [B, F, H, W, 3d]
        q, k, v = jnp.split(h.reshape(b * frames, -1, 1, 3 * d), 3, axis=-1)  # [B F, HW, 1, d]
        h = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        return x + nn.Conv(d, (1, 1), name="proj")(h)  # [B, F, H, W, d]


class Middle(nn.Module):
    """Resnet, attention, resnet."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = Resnet(x.shape[-1], name="resnets_0")(x)
        x = Attention(name="attentions_0")(x)
        return Resnet(x.shape[-1], name="resnets_1")(x)  # [B, F, H, W, d]


class Down(nn.Module):
    """Halves the sides, and the frames where `time`: the first by itself, then every two with the one before them."""

    time: bool

    @nn.compact
    def __call__(self, x: Array, first: bool) -> Array:
        x = nn.Conv(x.shape[-1], (3, 3), 2, ((0, 1), (0, 1)), name="resample_1")(x)  # [B, F, H/2, W/2, d]
        if not self.time:
            return x
        windows = after_past(self, x, 1)[:, 1 if first else 0 :]  # [B, 2m + 1, H/2, W/2, d]
        halve = nn.Conv(x.shape[-1], (3, 1, 1), (2, 1, 1), "VALID", name="time_conv")
        halved = halve(windows) if windows.shape[1] > 1 else x[:, :0]
        return jnp.concatenate([x[:, :1], halved], 1) if first else halved  # [B, m (+ 1), H/2, W/2, d]


class Up(nn.Module):
    """Doubles the sides and halves the width; doubles the frames where `time`, all but the first, which none sees."""

    time: bool

    @nn.compact
    def __call__(self, x: Array, first: bool) -> Array:
        b, _, height, width, d = x.shape
        if self.time:
            pairs = Causal(2 * d, (3, 1, 1), name="time_conv")(x[:, 1 if first else 0 :])  # [B, F, H, W, 2d]
            doubled = pairs.reshape(*pairs.shape[:4], 2, d).transpose(0, 1, 4, 2, 3, 5)  # [B, F, 2, H, W, d]
            doubled = doubled.reshape(b, -1, height, width, d)
            x = jnp.concatenate([x[:, :1], doubled], 1) if first else doubled
        x = jnp.repeat(jnp.repeat(x, 2, axis=2), 2, axis=3)  # [B, F, 2H, 2W, d]
        return nn.Conv(d // 2, (3, 3), padding=1, name="resample_1")(x)  # [B, F, 2H, 2W, d/2]


class Encoder(nn.Module):
    """Clips -> the features that `quant_conv` reads moments from."""

    widths: tuple[int, ...]
    resnets: int
    latent: int
    time: tuple[bool, ...]

    @nn.compact
    def __call__(self, x: Array, first: bool) -> Array:
        x = Causal(self.widths[0], name="conv_in")(x)  # [B, F, H, W, d0]
        number = 0
        for i, width in enumerate(self.widths):
            for _ in range(self.resnets):
                x = Resnet(width, name=f"down_blocks_{number}")(x)
                number += 1
            if i + 1 < len(self.widths):
                x = Down(self.time[i], name=f"down_blocks_{number}")(x, first)
                number += 1
        x = Middle(name="mid_block")(x)  # [B, F', H/f, W/f, d]
        return Causal(2 * self.latent, name="conv_out")(nn.silu(Norm(name="norm_out")(x)))  # [B, F', H/f, W/f, 2C]


class Level(nn.Module):
    """Resnets at one resolution of the decoder, then a change of it except at the last level."""

    features: int
    resnets: int
    time: bool | None

    @nn.compact
    def __call__(self, x: Array, first: bool) -> Array:
        for i in range(self.resnets):
            x = Resnet(self.features, name=f"resnets_{i}")(x)  # [B, F, H, W, d]
        return x if self.time is None else Up(self.time, name="upsamplers_0")(x, first)


class Decoder(nn.Module):
    """What `post_quant_conv` makes of latents -> clips."""

    widths: tuple[int, ...]
    resnets: int
    channels: int
    time: tuple[bool, ...]

    @nn.compact
    def __call__(self, z: Array, first: bool) -> Array:
        x = Middle(name="mid_block")(Causal(self.widths[-1], name="conv_in")(z))  # [B, F', H/f, W/f, d]
        for i, (width, time) in enumerate(zip(self.widths[::-1], [*self.time[::-1], None], strict=True)):
            x = Level(width, self.resnets, time, name=f"up_blocks_{i}")(x, first)
        return Causal(self.channels, name="conv_out")(nn.silu(Norm(name="norm_out")(x)))  # [B, F, H, W, 3]


class WanVAE(nn.Module):
    """The autoencoder; the defaults are those of Wan 2.1. All is float32, on every backend.

    Attributes:
      widths: channels of the levels, finest first; each level after the first halves the sides.
      resnets: a level of the encoder has this many, one of the decoder one more.
      latent: C, channels of the latents.
      time: of the changes of level, finest first, which halve the frames too.
      channels: of the clips.
    """

    widths: tuple[int, ...] = (96, 192, 384, 384)
    resnets: int = 2
    latent: int = 16
    time: tuple[bool, ...] = (False, True, True)
    channels: int = 3

    def setup(self) -> None:
        self.encoder = Encoder(self.widths, self.resnets, self.latent, self.time)
        self.decoder = Decoder(self.widths, self.resnets + 1, self.channels, self.time)
        self.quant_conv = Causal(2 * self.latent, (1, 1, 1))
        self.post_quant_conv = Causal(self.latent, (1, 1, 1))

    @property
    def factors(self) -> tuple[int, int]:
        """Frames (all but the first) and pixels along a side of a latent."""
        return 2 ** sum(self.time), 2 ** len(self.time)

    def moments(self, x: Array, first: bool = True) -> tuple[Array, Array]:
        """The posterior of a clip, or of the next piece of one.

        Args:
          x: [B, 1 + 4k, H, W, 3] in [-1, 1]; [B, 4k, ...] where it is not the first piece.
          first: whether it begins with the clip's first frame.

        Returns:
          mean and log variance, [B, 1 + k or k, H/8, W/8, C] each.
        """
        with jax.default_matmul_precision("highest"):
            mean, log_variance = jnp.split(self.quant_conv(self.encoder(x, first)), 2, axis=-1)
        return mean, jnp.clip(log_variance, *LOG_VARIANCE)

    def decode(self, z: Array, first: bool = True) -> Array:
        """Latents [B, 1 + k, h, w, C] -> frames [B, 1 + 4k, 8h, 8w, 3], about [-1, 1], not clipped.

        Args:
          z: latents, not normalised; of the next piece of a clip [B, k, ...], which gives [B, 4k, ...].
          first: whether it begins with the clip's first latent.
        """
        with jax.default_matmul_precision("highest"):
            return self.decoder(self.post_quant_conv(z), first)

    def __call__(self, x: Array) -> Array:
        """Clips through the mean of their posterior and back; initialisation runs this."""
        return self.decode(self.moments(x)[0])  # [B, F, H, W, 3]
