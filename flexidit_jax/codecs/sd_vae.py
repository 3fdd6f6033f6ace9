"""Latents of the published SD-VAE, 8x8 pixels and three channels to one latent of four."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import content_digest
from flexidit_jax.common.hub import located
from flexidit_jax.common.pixels import to_uint8
from flexidit_jax.common.placement import mesh_of, sent_once, whole_on
from flexidit_jax.common.tensor_files import SUFFIXES, config_beside
from flexidit_jax.common.types import Array, Params
from flexidit_jax.common.weights import full_set, read_weights, weight_files, within
from flexidit_jax.models.pretrained import stripes
from flexidit_jax.models.pretrained.autoencoder_kl import VAE
from flexidit_jax.models.pretrained.autoencoder_kl_layout import NETWORK, read_vae

SOURCE = "stabilityai/sd-vae-ft-ema"
STEM = "diffusion_pytorch_model"
WEIGHTS = f"{STEM}.safetensors"
#: of the published model: pixels per latent along a side, channels of images and of latents
FACTOR, CHANNELS, LATENT_CHANNELS = 8, 3, 4
DTYPES = ("float32", "bfloat16")
SCALE = 0.18215
#: parts of the network that run, one half to encode and one to decode
ENCODER, DECODER = {"encoder", "quant_conv"}, {"decoder", "post_quant_conv"}


@dataclass(frozen=True)
class Codec:
    """SD-VAE f8 (latent diffusion, arXiv 2112.10752), in slices that bound memory.

    The file is read at the first use, so that a model can be loaded and its shapes known without it;
    `check` says early whether it is there. Slices are a loop on the host: not for use inside jit.

    Attributes:
      path: a folder as diffusers writes it (`diffusion_pytorch_model.safetensors` or what stands for it,
        `config.json`), also within that of a pipeline as `vae`; or the weight file. Without a config.json beside it,
        norms have the published 32 groups. Where there is no such path, the name of a model at the Hugging Face hub,
        such as "stabilityai/sd-vae-ft-ema" (see `common.hub`).
      scale: latents are the posterior's times this; None: what the config.json there says, else 0.18215.
      slice: images (frames) per device at once; bounds memory, changes results by rounding only. One of more than
        512x512 pixels counts as several, and is convolved in stripes (`models.pretrained.stripes`).
      dtype: of the encoder's convolutions and products, "float32" or "bfloat16".
      decode_dtype: of the decoder's convolutions and products. Images depend on it, latents do not.
    """

    path: str = f"./weights/{SOURCE.split('/')[1]}"  # with two slashes it is no name at the hub
    scale: float | None = SCALE
    slice: int = 4
    dtype: str = "float32"
    decode_dtype: str = "float32"

    def __post_init__(self) -> None:
        build.positive("codec", slice=self.slice, **({} if self.scale is None else {"scale": self.scale}))
        for key in ("dtype", "decode_dtype"):
            if (value := getattr(self, key)) not in DTYPES:
                raise UserError(f"codec.{key} must be 'float32' or 'bfloat16', got {value!r}")

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(F, H / 8, W / 8, 4) of the latents for data of shape (F, H, W, 3).

        Raises:
          UserError: not three channels, or sides that 8 does not divide.
        """
        frames, height, width, channels = shape
        if channels != CHANNELS or height % FACTOR or width % FACTOR:
            raise UserError(f"sd_vae reads 3 channels and sides that 8 divides, got {height}x{width}x{channels}")
        return frames, height // FACTOR, width // FACTOR, LATENT_CHANNELS

    def data_shape(self, latent: tuple[int, ...]) -> tuple[int, ...]:
        """The inverse of `latent_shape`.

        Raises:
          UserError: latents of another number of channels.
        """
        frames, height, width, channels = latent
        if channels != LATENT_CHANNELS:
            raise UserError(f"sd_vae decodes latents [B, F, h, w, {LATENT_CHANNELS}], got {list(latent)} a sample")
        return frames, height * FACTOR, width * FACTOR, CHANNELS

    def check(self) -> None:
        """Says before a long run whether the weights are there, and are of this codec.

        Raises:
          UserError: they are not there, where the message says what to fetch and where to put it; or the config.json
            beside them says what this codec does not do.
        """
        if not self._files:
            path = Path(self.path)
            file = path if path.suffix in SUFFIXES else path / WEIGHTS
            raise UserError(
                f"the VAE's weights {file} do not exist; put {WEIGHTS} of {SOURCE} (huggingface.co) there and"
                " its config.json beside it, or set codec.path to where they are"
            )
        self._groups()

    def fingerprint(self) -> str:
        """16 hex digits of the content of the weights, wherever they are, and of the groups of norms.

        Raises:
          UserError: see `check`, or a file that cannot be read.
        """
        self.check()
        digest = content_digest(self._files)
        if (groups := self._groups()) != VAE.groups:  # the published groups: the file by itself, as once recorded
            digest.update(f"norm_num_groups={groups}".encode())
        return digest.hexdigest()[:16]

    def moments(self, x: Array) -> tuple[jax.Array, jax.Array]:
        """The posterior of data.

        Args:
          x: [B, F, H, W, 3] in [-1, 1]; a batch split over devices stays where it is.

        Returns:
          mean and standard deviation, [B, F, H / 8, W / 8, 4] float32 each, unscaled.

        Raises:
          UserError: see `check` and `latent_shape`, or a file of another model.
        """
        shape = (len(x), *self.latent_shape(x.shape[1:]))
        model, params = self._weights(x)
        images = x.reshape(-1, *x.shape[2:])  # [B F, H, W, 3]
        size = self._at_once(images.shape[1] * images.shape[2])
        parts = [jax.block_until_ready(_moments(model, params, part)) for part in _slices(images, size)]
        mean, std = (_joined(jnp, moment, len(images)).reshape(shape) for moment in zip(*parts, strict=True))
        return mean, std

    def encode(self, x: Array, key: Array | None = None) -> jax.Array:
        """[B, F, H, W, 3] data in [-1, 1] -> scaled latents [B, F, H / 8, W / 8, 4].

        Args:
          x: data.
          key: with one, a sample of the posterior, which is what DiT trains on; without, its mean.

        Raises:
          UserError: see `moments`.
        """
        return self.draw(*self.moments(x), key)

    def draw(self, mean: Array, std: Array, key: Array | None = None) -> jax.Array:
        """What `encode` makes of data whose `moments` are known.

        Args:
          mean, std: as `moments` returns them, in any floating type.
          key: see `encode`.

        Returns:
          scaled latents like `mean`, float32.
        """
        return _latents(mean, std, key, self._scale)

    def decode(self, latents: Array) -> np.ndarray:
        """Scaled latents [B, F, h, w, 4] -> uint8 [B, F, 8 h, 8 w, 3].

        Raises:
          UserError: latents of another number of channels; see `moments`.
        """
        if latents.ndim != 5 or latents.shape[-1] != LATENT_CHANNELS:
            raise UserError(f"sd_vae decodes latents [B, F, h, w, 4], got {list(latents.shape)}")
        model, params = self._weights(latents, decoding=True)
        z = latents.reshape(-1, *latents.shape[2:])  # [B F, h, w, 4]
        size = self._at_once(z.shape[1] * z.shape[2] * FACTOR**2)
        parts = [to_uint8(_decode(model, params, part, self._scale)) for part in _slices(z, size)]
        images = _joined(np, parts, len(z))  # [B F, H, W, 3]
        return images.reshape(*latents.shape[:2], *images.shape[1:])

    def _at_once(self, pixels: int) -> int:
        """How many images of so many pixels."""
        return max(1, self.slice * stripes.WHOLE // max(pixels, stripes.WHOLE))

    @property
    def _files(self) -> list[Path]:
        """The weight file, or its shards; none where there are none.

        Raises:
          UserError: `path` is a name at the hub that cannot be read (see `common.hub.located`).
        """
        path = located(self.path, _files_of_vae)
        if path.is_file():
            return [path]
        return weight_files(path, STEM) or weight_files(path / "vae", STEM)

    @cached_property
    def _scale(self) -> float:
        if self.scale is not None:
            return self.scale
        files = self._files
        said = config_beside(files[0]).get("scaling_factor") if files else None
        if said is not None and (type(said) not in (int, float) or not said > 0):
            raise UserError(f"{files[0].parent}/config.json says scaling_factor is {said!r}, and no positive number")
        return SCALE if said is None else said

    def _groups(self) -> int:
        """Of the norms: all that config.json adds to the weights, since its other values must be those of this codec.

        Raises:
          UserError: one is not, or the file is no JSON.
        """
        config = config_beside(self._files[0])
        expected = {"act_fn": "silu", "scaling_factor": self._scale, "shift_factor": None, "latents_mean": None}
        for key, value in expected.items():
            if config.get(key, value) != value:
                where = "; set codec.scale to it" if key == "scaling_factor" else ""
                raise UserError(f"{self._files[0].parent}/config.json says {key} is {config[key]}, not {value}{where}")
        return config.get("norm_num_groups", VAE.groups)

    def _weights(self, x: Array, decoding: bool = False) -> tuple[VAE, Params]:
        """The network and the weights of one half, on every device that holds a part of x, sent there once.

        The decoder's kernels are cast here, once, to what they are multiplied in: the same bits as in every call.
        """
        model, params = self._loaded
        if decoding:
            model = model.clone(dtype=self.decode_dtype)
        mesh = mesh_of(x)

        def sent(path: tuple[jax.tree_util.DictKey, ...], leaf: np.ndarray) -> jax.Array:
            if decoding and path[-1].key == "kernel":
                leaf = leaf.astype(model.dtype, copy=False)
            return whole_on(leaf, mesh)

        half = {part: tree for part, tree in params.items() if part in (DECODER if decoding else ENCODER)}
        return model, sent_once(self._copies, (mesh, decoding), lambda: jax.tree_util.tree_map_with_path(sent, half))

    @cached_property
    def _copies(self) -> dict[tuple[Mesh | None, bool], Params]:
        return {}

    @cached_property
    def _loaded(self) -> tuple[VAE, Params]:
        self.check()
        where = self._files[0]
        state, _ = read_weights(self._files, NETWORK)
        try:
            model, params = read_vae(state, self._groups())
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if (model.factor, model.channels, model.latent) != (FACTOR, CHANNELS, LATENT_CHANNELS):
            raise UserError(
                f"{where} holds a VAE of factor {model.factor} with {model.channels} image and {model.latent}"
                f" latent channels; sd_vae is for {FACTOR}, {CHANNELS} and {LATENT_CHANNELS}"
            )
        return model.clone(dtype=self.dtype), params


def _files_of_vae(names: Sequence[str]) -> list[str]:
    """Those of the names of a folder's files that are read.

    Raises:
      UserError: none of them.
    """
    for root in ("", "vae/"):
        inside = within(names, root)
        if weights := full_set(inside, STEM):
            return [f"{root}{name}" for name in inside if name in ("config.json", *weights)]
    raise UserError(f"it holds no {STEM} of a VAE")


def _slices(images: Array, size: int) -> Iterator[Array]:
    """Equal slices [s, ...] of images [N, ...], the last padded with zeros.

    Slice k of n holds images k, n + k, 2n + k, ...: an array split over devices along N is then split
    in every slice, and no image moves.
    """
    shards = 1
    if isinstance(images, jax.Array):
        shards = len(images) // images.sharding.shard_shape(images.shape)[0]
    count = -(-len(images) // (size * shards))
    padding = -len(images) % (shards * count)
    if padding:
        xp = jnp if isinstance(images, jax.Array) else np
        images = xp.pad(images, ((0, padding), *((0, 0),) * (images.ndim - 1)))
    strided = images.reshape(-1, count, *images.shape[1:])  # [s, n, ...]
    return (strided[:, k] for k in range(count))


def _joined(xp, parts: list[Array] | tuple[Array, ...], count: int) -> Array:
    """The inverse of `_slices`: `count` images in order."""
    stacked = xp.stack(parts, axis=1)  # [s, n, ...]
    return stacked.reshape(-1, *stacked.shape[2:])[:count]


@partial(jax.jit, static_argnames="model")
def _moments(model: VAE, params: Params, x: Array) -> tuple[Array, Array]:
    return model.apply({"params": params}, x, method="moments")


@partial(jax.jit, static_argnames="model")
def _decode(model: VAE, params: Params, latents: Array, scale: float) -> Array:
    return model.apply({"params": params}, latents / scale, method="decode")


@jax.jit
def _latents(mean: Array, std: Array, key: Array | None, scale: float) -> Array:
    """A draw of the posterior (its mean without a key), scaled."""
    mean, std = mean.astype(jnp.float32), std.astype(jnp.float32)
    z = mean if key is None else mean + std * jax.random.normal(key, mean.shape)
    return scale * z
