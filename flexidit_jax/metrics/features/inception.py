"""Features of the Inception of 2015-12-05: FID, sFID, Inception Score, KID, precision and recall."""

from __future__ import annotations

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.common.types import Array, Params
from flexidit_jax.metrics.features import resize, weights
from flexidit_jax.metrics.features.batches import Batches, check_images
from flexidit_jax.models.pretrained.inception import SIDE, Inception
from flexidit_jax.models.pretrained.inception_layout import FILE, NETWORK, published, read_inception

OTHER = f"pt_{FILE.removeprefix('weights-')}"
GRAPH = "classify_image_graph_def.pb"
PUBLISHED = weights.Published(
    "inception",
    [NETWORK],
    files=("inception-2015-12-05.safetensors", FILE, OTHER, GRAPH),
    fetch=(
        f"{FILE} (a release of torch-fidelity; its SHA-256 begins with 6726825d), {OTHER} (of pytorch-fid) or {GRAPH}"
        " (of TensorFlow) into {path}"
    ),
    instead=FILE,
)


def _tensorflow(x: Array) -> Array:
    return (resize.tensorflow1(x, SIDE) - 128) / 128


def _pytorch_fid(x: Array) -> Array:
    return 2 * resize.half_pixel(x / np.float32(255), SIDE) - 1


def _clean(x: Array) -> Array:
    return (jnp.clip(resize.bicubic(x, SIDE), 0, 255) - 128) / 128


#: uint8 images of any size -> what the network reads
CONVENTIONS = {"adm": _tensorflow, "pytorch-fid": _pytorch_fid, "clean": _clean}


class Features:
    """`pool` [B, 2048]; `spatial` [B, 2023] of sFID, rows, columns, channels; `logits` [B, 1008] without their bias.

    Args:
      path: the file, or a folder that holds one under the name it was published by.
      convention: how images become 299x299: "adm" as TensorFlow 1 did, which the published numbers of diffusion models
        are made with, torch-fidelity's too; "pytorch-fid"; "clean", of clean-fid. Numbers of two conventions cannot be
        compared.
      batch: images at once over all devices.
      devices: of this process, None for all.

    Raises:
      UserError: no such file, or one that holds something else.
    """

    kinds = ("pool", "spatial", "logits")
    metrics = ("inception_score", "frechet", "precision_recall")

    def __init__(
        self, path: str = "./weights", convention: str = "adm", batch: int = 32, devices: int | None = None
    ) -> None:
        if convention not in CONVENTIONS:
            raise UserError(f"no convention {convention!r}{nearest(str(convention), CONVENTIONS)}")
        found = weights.read(path, PUBLISHED)
        params = found.made(lambda state: read_inception(published(state)))
        self._run = Batches(params, batch, devices).over(_network, CONVENTIONS[convention])
        self._path = path
        self.sha256 = found.sha256
        self.protocol = {"convention": convention, "weights_sha256": found.source_sha256}

    def extract(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Features of uint8 images [B, H, W, 3] of any size; see the class.

        Raises:
          UserError: other images.
        """
        check_images(images)
        return self._run(images)

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Writes the weights as one .safetensors file of the 472 published names.

        Raises:
          UserError: another ending, something there, or a path that cannot be written.
        """
        weights.write(path, weights.read(self._path, PUBLISHED), published, overwrite)


def _network(params: Params, x: Array) -> dict[str, Array]:
    return Inception().apply({"params": params}, x)
