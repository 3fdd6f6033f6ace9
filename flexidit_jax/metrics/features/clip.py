"""Features of CLIP: CMMD (Jayasumana et al., arXiv 2401.09603) and the CLIP score, which reads texts too."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.common.notes import note
from flexidit_jax.common.types import Array, Params
from flexidit_jax.metrics.features import resize, weights
from flexidit_jax.metrics.features.batches import Batches, check_images
from flexidit_jax.models.pretrained.clip import Tower
from flexidit_jax.models.pretrained.clip_layout import KIND, NETWORK, read_clip
from flexidit_jax.models.pretrained.clip_tokenizer import MERGES, VOCABULARY, Tokenizer

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
MODEL = "openai/clip-vit-large-patch14"
PUBLISHED = weights.Published(
    KIND,
    [NETWORK],
    files=("clip.safetensors",),
    fetch=f"{MODEL} (huggingface.co: model.safetensors, config.json, {VOCABULARY}, {MERGES}) into {{path}}",
    instead=f"model.safetensors of {MODEL} (huggingface.co)",
    beside=("config.json", VOCABULARY, MERGES),
)
CROPS = ("after", "before")


class Features:
    """`pool` [B, D]: the projected embedding of an image, not normalised.

    Args:
      path: the file, a folder that holds one as the transformers library writes it, or a model at the hub. Its tensors
        say which size it is: ViT-B/32, ViT-L/14, ViT-L/14@336, ...
      crop: a square is cut out of the middle "after" the short side is resized, as CLIP's own processor does; or
        "before", as CMMD does. Square images are the same either way.
      num_heads: of the image's tower, of a file that does not tell and whose width is not a published one.
      batch: images at once over all devices.
      devices: of this process, None for all.

    Raises:
      UserError: no such file, or one that holds something else.
    """

    kinds = ("pool",)
    metrics = ("cmmd",)

    def __init__(
        self,
        path: str = f"./weights/{MODEL.split('/')[1]}",
        crop: str = "after",
        num_heads: int | None = None,
        batch: int = 32,
        devices: int | None = None,
    ) -> None:
        if crop not in CROPS:
            raise UserError(f"no crop {crop!r}{nearest(str(crop), CROPS)}")
        found = weights.read(path, PUBLISHED)
        model, params = found.made(read_clip, found.config, num_heads)

        def image(params: Params, x: Array) -> dict[str, Array]:
            return {"pool": model.apply({"params": params}, resize.standardised(x, MEAN, STD), method="image")}

        def text(params: Params, ids: Array) -> dict[str, Array]:
            return {"pool": model.apply({"params": params}, ids, method="words")}

        batches = Batches(params, batch, devices)
        self._image, self._text = batches.over(image), batches.over(text)
        self._crop, self._side, self._length = crop, model.vision.side, model.text.length
        self._path, self._folder = path, found.file.parent
        self.sha256 = found.sha256
        name = {768: "B", 1024: "L", 1280: "H"}.get(model.vision.width, model.vision.width)
        self.protocol = {
            "convention": f"clip-ViT-{name}/{model.vision.patch}" + (f"@{self._side}" if self._side != 224 else ""),
            "crop": crop,
            **{f"{name} tower": _untold(tower) for name, tower in (("image", model.vision), ("text", model.text))},
            "weights_sha256": found.source_sha256,
        }

    def extract(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Features of uint8 images [B, H, W, 3] of any size; see the class.

        Raises:
          UserError: other images.
        """
        check_images(images)
        return self._image(fitted(images, self._side, self._crop))

    def text(self, prompts: Sequence[str]) -> np.ndarray:
        """The projected embeddings [B, D] of texts, not normalised; a line says how many were too long.

        Raises:
          UserError: no texts, or the tokenizer's two files are not beside the weights.
        """
        if isinstance(prompts, str) or not len(prompts) or not all(isinstance(prompt, str) for prompt in prompts):
            raise UserError("prompts must be a list of texts, and at least one")
        ids, lost = self._tokenizer(prompts, self._length)
        if count := np.count_nonzero(lost):
            note(f"{count} of {len(lost)} texts are longer than {self._length - 2} tokens, and their ends are not read")
        return self._text(ids)["pool"]

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Writes the weights as one .safetensors file; `text` wants the tokenizer's two files beside it.

        Raises:
          UserError: another ending, something there, or a path that cannot be written.
        """
        weights.write(path, weights.read(self._path, PUBLISHED), dict, overwrite)

    @property
    def tokenizer_sha256(self) -> str:
        """Of what the tokenizer's two files say.

        Raises:
          UserError: they are not beside the weights.
        """
        return self._tokenizer.sha256

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.of(self._folder)


def _untold(tower: Tower) -> str:
    """What no tensor of a tower tells, and its features depend on."""
    return f"{tower.heads} heads {tower.activation} eps {tower.eps}"


def fitted(images: np.ndarray, side: int, crop: str) -> np.ndarray:
    """uint8 [B, H, W, 3] -> [B, side, side, 3], the middle of each image."""
    short = min(images.shape[1:3])
    if crop == "before":
        return resize.pillow_bicubic(resize.centre(images, short), side, side)
    height, width = (side * size // short for size in images.shape[1:3])
    return resize.centre(resize.pillow_bicubic(images, height, width), side)
