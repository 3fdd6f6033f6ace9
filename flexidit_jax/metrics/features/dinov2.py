"""Features of DINOv2 ViT-L/14: the Frechet distance of Stein et al. (arXiv 2306.04675), FD-DINOv2."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.common.types import Array, Params
from flexidit_jax.metrics.features import weights
from flexidit_jax.metrics.features.batches import Batches, check_images
from flexidit_jax.metrics.features.resize import bicubic, pillow_bicubic, standardised
from flexidit_jax.models.pretrained.dinov2 import EXTRA
from flexidit_jax.models.pretrained.dinov2_layout import KIND, NETWORKS, published, read_dinov2

SIDE = 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILE = "dinov2_vitl14_pretrain.pth"
PUBLISHED = weights.Published(
    KIND,
    NETWORKS,
    files=("dinov2_vitl14.safetensors", FILE, "dinov2-large/model.safetensors"),
    fetch=f"{FILE} (of facebookresearch/dinov2) or facebook/dinov2-large (huggingface.co) into {{path}}",
    instead=FILE,
)
RESIZES = ("pillow", "torch")


class Features:
    """`pool` [B, 1024]: the class token after the last norm.

    Args:
      path: the file, a folder that holds one under the name it was published by, or a model at the hub.
      resize: how images are squashed to 224x224: "pillow", bicubic of bytes, the default of dgm-eval; "torch", bicubic
        of floats, that of EDM2. Features differ by 0.1 to 0.3 %.
      positions: "hub" resizes the positions as the original code does, with which published numbers were made; "hf" as
        the transformers library. Features differ by 0.3 to 0.6 %.
      num_heads: of a file that does not tell, and whose width is not a published one.
      batch: images at once over all devices.
      devices: of this process, None for all.

    Raises:
      UserError: no such file, or one that holds something else.
    """

    kinds = ("pool",)
    metrics = ("frechet",)

    def __init__(
        self,
        path: str = "./weights",
        resize: str = "pillow",
        positions: str = "hub",
        num_heads: int | None = None,
        batch: int = 32,
        devices: int | None = None,
    ) -> None:
        for word, value, known in (("resize", resize, RESIZES), ("positions", positions, EXTRA)):
            if value not in known:
                raise UserError(f"no {word} {value!r}{nearest(str(value), known)}")
        found = weights.read(path, PUBLISHED)
        model, params = found.made(read_dinov2, found.config, num_heads, positions)

        def network(params: Params, x: Array) -> dict[str, Array]:
            return {"pool": model.apply({"params": params}, standardised(x, MEAN, STD))}

        self._path, self._resize = path, resize
        self._run = Batches(params, batch, devices).over(network, _squashed)
        self.sha256 = found.sha256
        self.protocol = {
            "convention": f"dinov2-{positions}",
            "resize": resize,
            "heads": model.heads,
            "weights_sha256": found.source_sha256,
        }

    def extract(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Features of uint8 images [B, H, W, 3] of any size; see the class.

        Raises:
          UserError: other images.
        """
        check_images(images)
        return self._run(pillow_bicubic(images, SIDE, SIDE) if self._resize == "pillow" else images)

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Writes the weights as one .safetensors file with the names of the transformers library.

        Raises:
          UserError: another ending, something there, or a path that cannot be written.
        """
        weights.write(path, weights.read(self._path, PUBLISHED), published, overwrite)


def _squashed(images: Array) -> Array:
    return bicubic(images, SIDE)  # which leaves alone what has that size
