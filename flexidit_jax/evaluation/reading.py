"""What is read off images: of one of a class its label, of one of a caption all its words.

A classifier labels the parts of an image. One of a class is a part by itself; what parts those of a caption have, and
what these should be, says a dataset whose captions can be read back (`data`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from flexidit_jax.codecs.latents import data_of, latents_of, stacked

#: uint8 [N, H, W, C], or N of them where sizes differ
Images = Sequence[np.ndarray]


class Examples(NamedTuple):
    """Parts that a classifier learns to label, uint8 [M, h, w, C], and their labels [M]."""

    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Reading:
    """How images of a dataset are read.

    Attributes:
      dataset: of classes, or of captions that can be read back.
      codec: turns its data into the uint8 that samples are.
    """

    dataset: Any
    codec: Any

    @property
    def of_captions(self) -> bool:
        """Whether an image has a caption, some of which are never trained on."""
        return hasattr(self.dataset, "cells")

    def images(self, records: Sequence[Mapping[str, Any]]) -> Images:
        """Of records, in their order; of one size they are one array."""
        by_shape: dict[tuple[int, ...], list[tuple[int, Mapping[str, Any]]]] = {}
        for number, record in enumerate(records):
            kept = data_of(record)
            by_shape.setdefault(next(iter(kept.values())).shape, []).append((number, kept))
        found: dict[int, np.ndarray] = {}
        for kept in by_shape.values():
            decoded = self.codec.decode(latents_of(self.codec, stacked([record for _, record in kept])))[:, 0]
            if len(by_shape) == 1:
                return decoded
            found |= zip((number for number, _ in kept), decoded, strict=True)
        return [found[number] for number in range(len(found))]

    def known(self, records: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
        """Those of captions that are trained on, or of labels, of which all are."""
        if not self.of_captions:
            return records
        return [record for record in records if self.dataset.seen(record["text"])]

    def examples(self, held_out: bool, records: Sequence[Mapping[str, Any]], images: Images) -> Examples:
        """Parts with their labels: those that the dataset has apart, or its images.

        Args:
          held_out: those that are not trained on.
          records, images: of the dataset.
        """
        if self.of_captions:
            records = self.dataset.examples(held_out)
            images = self.images(records)
        return Examples(np.asarray(images), np.stack([record["label"] for record in records]))

    def parts(self, images: Images) -> np.ndarray:
        """uint8 [N, P, h, w, C]."""
        if self.of_captions:
            return np.stack([self.dataset.cells(image) for image in images])
        return np.asarray(images)[:, None]

    def wanted(self, asked: Sequence[Any]) -> np.ndarray:
        """The labels that the parts of images should have, int [N, P]."""
        if self.of_captions:
            return np.array([self.dataset.wanted(caption) for caption in asked])
        return np.asarray(asked)[:, None]

    def seen(self, asked: Sequence[Any]) -> np.ndarray:
        """Of which captions, or labels, there are images to train on, bool [N]."""
        if self.of_captions:
            return np.array([self.dataset.seen(caption) for caption in asked])
        return np.ones(len(asked), bool)

    def said(self, asked: Sequence[Any]) -> dict[str, Any]:
        """What a report says of captions, JSON-ready: how many there are, how many of them are never trained on."""
        if not self.of_captions:
            return {}
        captions = list(dict.fromkeys(asked))
        parts = self.wanted(captions[:1]).shape[1]
        unseen = int((~self.seen(captions)).sum())
        return {"captions": {"count": len(captions), "unseen": unseen, "parts": parts}}


def joined(parts: Sequence[Images]) -> Images:
    """Images one after the other: one array where all have one size."""
    if all(isinstance(part, np.ndarray) for part in parts) and len({part.shape[1:] for part in parts}) == 1:
        return np.concatenate(parts)
    return [image for part in parts for image in part]
