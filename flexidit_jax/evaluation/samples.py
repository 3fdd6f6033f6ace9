"""A set of samples and what lies beside it; whether two sets share their noise and labels."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.data.image_set import ImageSet, open_images

#: what a folder of `--mode=generate` says of its images, and their array
MANIFEST, ARRAYS = "manifest.json", "samples.npz"


@dataclass(frozen=True)
class Samples:
    """Images, opened.

    Attributes:
      name: as the user calls them.
      images: themselves.
      manifest: of the folder of `--mode=generate` that they lie in; {} of others.
    """

    name: str
    images: ImageSet
    manifest: Mapping[str, Any]

    @classmethod
    def open(cls, path: str, crop: str | None = None, side: int | None = None) -> Samples:
        """See `data.image_set.open_images`.

        Raises:
          UserError: as there; or a manifest that is damaged.
        """
        images, folder = open_images(path, crop, side), Path(path).expanduser()
        file = (folder.parent if folder.name == ARRAYS else folder) / MANIFEST
        if not file.is_file():
            return cls(path, images, {})
        try:
            manifest = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise UserError(f"{file} cannot be read ({error}); move it away, or draw the images again") from None
        ours = isinstance(manifest, dict) and isinstance(manifest.get("sample"), dict)
        return cls(path, images, manifest if ours else {})

    def unlike(self, other: Samples) -> list[str]:
        """What of noise and labels differs from another set; of what one does not say, nothing."""
        found = []
        if self.images.count != other.images.count:
            found.append(f"{self.images.count:,} and {other.images.count:,} images")
        if self.manifest and other.manifest:
            for key, mine, theirs in zip(("seeds", "labels", "latents"), _noise(self), _noise(other), strict=True):
                found += [f"{key} {mine} and {theirs}"] if mine != theirs else []
        classes = self.images.labels, other.images.labels
        if not found and all(one is not None for one in classes) and not np.array_equal(*classes):
            found.append(f"another class of image {int(np.argmin(np.equal(*classes)))}")
        return found


def are_paired(asked: bool | None, samples: Sequence[Samples]) -> bool:
    """Whether image i of all sets had the same noise and label.

    Args:
      asked: what the user says; None leaves it to manifests, without which sets are not paired.

    Raises:
      UserError: two of them are not, and the user did not say so.
    """
    if asked is False:
        return False
    for first, then in combinations(samples, 2):
        if unlike := first.unlike(then):
            raise UserError(
                f"{first.name} and {then.name} are not paired: {', '.join(unlike)};"
                " --config.evaluate.paired=False compares them as drawn apart"
            )
    return asked is True or all(one.manifest for one in samples)


def _noise(samples: Samples) -> tuple[Any, ...]:
    """All that noise and label of image i depend on."""
    model = samples.manifest.get("model")
    latent = model.get("latent") if isinstance(model, dict) else None
    return samples.manifest["sample"].get("seed"), samples.manifest.get("labels"), latent
