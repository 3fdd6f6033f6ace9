"""Latents of Wan 2.1's causal video autoencoder: a first frame, then four frames, of 8x8 pixels to one of sixteen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import content_digest
from flexidit_jax.common.hub import located
from flexidit_jax.common.notes import note
from flexidit_jax.common.pixels import to_uint8
from flexidit_jax.common.placement import mesh_of, sent_once, whole_on
from flexidit_jax.common.tensor_files import SUFFIXES, config_beside
from flexidit_jax.common.types import Array, Params
from flexidit_jax.common.weights import full_set, read_weights, weight_files, within
from flexidit_jax.models.pretrained.autoencoder_wan import PAST, WanVAE
from flexidit_jax.models.pretrained.autoencoder_wan_layout import KIND, NETWORKS, read_vae

SOURCE = "Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
STEM = "diffusion_pytorch_model"
#: the file of the Wan repository
WHOLE_FILE = "Wan2.1_VAE.pth"
#: frames after the first, and pixels along a side, of a latent; channels of a clip
FRAMES, FACTOR, CHANNELS = 4, 8, 3
#: of the published model's posterior means, which latents are less and over
MEAN = (
    *(-0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508),
    *(0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921),
)
STD = (
    *(2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743),
    *(3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.916),
)


@dataclass(frozen=True)
class Codec:
    """Wan 2.1's autoencoder (arXiv 2503.20314), all float32. Latents are means of the posterior; none is drawn.

    Clips are coded a few frames at a time, each layer remembering the frames before: the numbers are those of the whole
    clip at once, and memory does not grow with its length. The file is read at the first use.

    Attributes:
      path: a folder as diffusers writes it, also within that of a pipeline as `vae`; that of the Wan repository, which
        has `Wan2.1_VAE.pth`; or the weight file. Where there is no such path, a model's name at the Hugging Face hub.
      whole: all frames at once, which short clips are quicker with.
    """

    path: str = f"./weights/{SOURCE.split('/')[1]}"  # with two slashes it is no name at the hub
    whole: bool = False

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """(1 + k, H / 8, W / 8, C) of the latents for data of shape (1 + 4k, H, W, 3); up to 3 more frames are cut.

        Raises:
          UserError: not three channels, or sides that 8 does not divide.
        """
        frames, height, width, channels = shape
        if channels != CHANNELS or height % FACTOR or width % FACTOR or frames < 1:
            said = f"{frames} frames of {height}x{width}x{channels}"
            raise UserError(f"wan_vae reads frames of 3 channels and sides that {FACTOR} divides, got {said}")
        return 1 + (frames - 1) // FRAMES, height // FACTOR, width // FACTOR, len(self._normal[0])

    def data_shape(self, latent: tuple[int, ...]) -> tuple[int, ...]:
        """The inverse of `latent_shape`.

        Raises:
          UserError: latents of another number of channels.
        """
        frames, height, width, channels = latent
        if channels != (ours := len(self._normal[0])) or frames < 1:
            raise UserError(f"wan_vae decodes latents [B, F, h, w, {ours}], got {list(latent)} a sample")
        return 1 + FRAMES * (frames - 1), height * FACTOR, width * FACTOR, CHANNELS

    def check(self) -> None:
        """Says before a long run whether the weights are there, and are of this codec.

        Raises:
          UserError: they are not there, where the message says what to fetch and where to put it; or the config.json
            beside them says what this codec does not do.
        """
        if not self._files:
            path = Path(self.path)
            file = path if path.suffix in SUFFIXES else path / "vae" / f"{STEM}.safetensors"
            raise UserError(
                f"the VAE's weights {file} do not exist; put vae/{STEM}.safetensors of {SOURCE} (huggingface.co,"
                " 0.5 GB) there and its config.json beside it, or set codec.path to where they are"
            )
        self._normal  # noqa: B018  looks at the config

    def fingerprint(self) -> str:
        """16 hex digits of the content of the weights, and of what latents are less and over.

        Raises:
          UserError: see `check`, or a file that cannot be read.
        """
        self.check()
        digest = content_digest(self._files)
        digest.update(np.array(self._normal, np.float32).tobytes())
        return digest.hexdigest()[:16]

    def moments(self, x: Array) -> tuple[jax.Array, jax.Array]:
        """The posterior of data.

        Args:
          x: [B, 1 + 4k, H, W, 3] in [-1, 1]; up to 3 more frames are cut, which a line says.

        Returns:
          mean and standard deviation, [B, 1 + k, H / 8, W / 8, C] float32 each, not normalised.

        Raises:
          UserError: see `check` and `latent_shape`, or a file of another model.
        """
        frames = self.data_shape(self.latent_shape(x.shape[1:]))[0]
        if frames < x.shape[1]:
            note(f"a clip of {x.shape[1]} frames is cut to {frames}; 4k + 1 have latents")
        model, params = self._weights(x)
        if self.whole:
            mean, log_variance = _encode_whole(model, params, x[:, :frames])
        else:
            cuts = [0, *range(1, frames, FRAMES), frames]
            pieces = (x[:, begin:end] for begin, end in pairwise(cuts))
            mean, log_variance = (jnp.concatenate(found, 1) for found in zip(*_run(_encode, model, params, pieces)))
        return mean, jnp.exp(0.5 * log_variance)

    def draw(self, mean: Array, std: Array, key: Array | None = None) -> jax.Array:
        """Latents of data whose `moments` are known; nothing is drawn.

        Args:
          mean, std: as `moments` returns them, in any floating type.
          key: not read.

        Returns:
          normalised latents like `mean`, float32.
        """
        less, over = jnp.float32(self._normal)
        return (jnp.asarray(mean, jnp.float32) - less) / over

    def encode(self, x: Array, key: Array | None = None) -> jax.Array:
        """[B, 1 + 4k, H, W, 3] data in [-1, 1] -> normalised latents [B, 1 + k, H / 8, W / 8, C].

        Raises:
          UserError: see `moments`.
        """
        return self.draw(*self.moments(x), key)

    def decode(self, latents: Array) -> np.ndarray:
        """Normalised latents [B, 1 + k, h, w, C] -> uint8 [B, 1 + 4k, 8 h, 8 w, 3].

        Raises:
          UserError: latents of another number of channels; see `check`.
        """
        return np.concatenate([*self.pieces(latents)], 1)

    def pieces(self, latents: Array) -> Iterator[np.ndarray]:
        """What `decode` gives, uint8 [B, 1, ...] and then [B, 4, ...] as soon as they are there.

        Raises:
          UserError: see `decode`.
        """
        z = self._denormalised(latents)
        model, params = self._weights(latents)
        if self.whole:
            yield to_uint8(_decode_whole(model, params, z))
            return
        yield from map(to_uint8, _run(_decode, model, params, (z[:, i : i + 1] for i in range(z.shape[1]))))

    def decode_float(self, latents: Array) -> jax.Array:
        """As `decode`, but [-1, 1] float32, clipped, and one program (a scan over latents, unless `whole`).

        Raises:
          UserError: see `decode`.
        """
        z = self._denormalised(latents)
        model, params = self._weights(latents)
        return jnp.clip((_decode_whole if self.whole else _decode_scan)(model, params, z), -1, 1)

    def _denormalised(self, latents: Array) -> jax.Array:
        self.data_shape(latents.shape[1:])
        less, over = jnp.float32(self._normal)
        return jnp.asarray(latents, jnp.float32) * over + less

    @property
    def _files(self) -> list[Path]:
        """The weight file, or its shards; none where there are none.

        Raises:
          UserError: `path` is a name at the hub that cannot be read (see `common.hub.located`).
        """
        path = located(self.path, _files_of_vae)
        if path.is_file():
            return [path]
        whole = [path / WHOLE_FILE] if (path / WHOLE_FILE).is_file() else []
        return weight_files(path / "vae", STEM) or whole or weight_files(path, STEM)

    @cached_property
    def _normal(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and deviation per channel of the posterior's means; the published ones where no config says others.

        Raises:
          UserError: the config is that of another autoencoder.
        """
        config = config_beside(files[0]) if (files := self._files) else {}
        if config.get("_class_name", KIND) != KIND:  # of the transformer that it lies beside
            config = {}
        for key, value in {"is_residual": False, "patch_size": None, "attn_scales": []}.items():
            if config.get(key, value) != value:
                said = f"{key} is {config[key]}, not {value}"
                raise UserError(f"{files[0].parent}/config.json says {said}; wan_vae is for that of Wan 2.1")
        return config.get("latents_mean", MEAN), config.get("latents_std", STD)

    def _weights(self, x: Array) -> tuple[WanVAE, Params]:
        """The network and its weights, on every device that holds a part of x, sent there once."""
        model, params = self._loaded
        mesh = mesh_of(x)
        return model, sent_once(self._copies, mesh, lambda: jax.tree.map(partial(whole_on, mesh=mesh), params))

    @cached_property
    def _copies(self) -> dict[Mesh | None, Params]:
        return {}

    @cached_property
    def _loaded(self) -> tuple[WanVAE, Params]:
        self.check()
        where = self._files[0]
        state, _ = read_weights(self._files, NETWORKS)
        try:
            model, params = read_vae(state)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if (model.factors, model.channels) != ((FRAMES, FACTOR), CHANNELS):
            frames, side = model.factors
            raise UserError(f"{where} holds a VAE of {frames}x{side}x{side} pixels a latent; wan_vae is for 4x8x8")
        if any(len(values) != model.latent for values in self._normal):
            raise UserError(
                f"{where} holds a VAE of {model.latent} latent channels, and means and deviations are known of"
                f" {len(self._normal[0])}; its config.json beside it would say them"
            )
        return model, params


def _files_of_vae(names: Sequence[str]) -> list[str]:
    """Those of the names of a folder's files that are read.

    Raises:
      UserError: none of them.
    """
    for root in ("vae/", ""):
        inside = within(names, root)
        if weights := full_set(inside, STEM):
            return [f"{root}{name}" for name in inside if name in ("config.json", *weights)]
    if WHOLE_FILE in names:
        return [WHOLE_FILE]
    raise UserError(f"it holds no {STEM} of a VAE, and no {WHOLE_FILE}")


def _run(step: Any, model: WanVAE, params: Params, pieces: Iterator[Array]) -> Iterator[Any]:
    """What a half of the network makes of every piece of a clip, one after the other."""
    past: Params = {}
    for number, piece in enumerate(pieces):
        found, past = step(model, params, past, jnp.asarray(piece), number == 0)
        yield found


@partial(jax.jit, static_argnames=("model", "first"), donate_argnames="past")
def _encode(model: WanVAE, params: Params, past: Params, x: Array, first: bool) -> tuple[Any, Params]:
    return model.apply({"params": params, **past}, x, first, method="moments", mutable=[PAST])


@partial(jax.jit, static_argnames=("model", "first"), donate_argnames="past")
def _decode(model: WanVAE, params: Params, past: Params, z: Array, first: bool) -> tuple[Array, Params]:
    return model.apply({"params": params, **past}, z, first, method="decode", mutable=[PAST])


@partial(jax.jit, static_argnames="model")
def _decode_scan(model: WanVAE, params: Params, z: Array) -> Array:
    """All frames, latent after latent in one program."""
    start, past = _decode(model, params, {}, z[:, :1], True)

    def step(past: Params, latent: Array) -> tuple[Params, Array]:
        frames, past = _decode(model, params, past, latent[:, None], False)
        return past, frames

    _, rest = jax.lax.scan(step, past, jnp.moveaxis(z[:, 1:], 1, 0))  # [k, B, 4, H, W, 3]
    rest = jnp.moveaxis(rest, 0, 1).reshape(start.shape[0], -1, *start.shape[2:])
    return jnp.concatenate([start, rest], 1)  # [B, 1 + 4k, H, W, 3]


@partial(jax.jit, static_argnames="model")
def _encode_whole(model: WanVAE, params: Params, x: Array) -> tuple[Array, Array]:
    return model.apply({"params": params}, x, method="moments")


@partial(jax.jit, static_argnames="model")
def _decode_whole(model: WanVAE, params: Params, z: Array) -> Array:
    return model.apply({"params": params}, z, method="decode")
