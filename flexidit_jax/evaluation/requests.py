"""What images are asked for: the class of a generated one from its number alone, classes or captions equally often."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import numpy as np

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.evaluation.reading import Images
from flexidit_jax.sampling.spec import SampleSpec

KINDS = ("uniform", "balanced")
#: that are shown
CAPTIONS = 8
#: apart from the draws of noise, which count from 0 (see `sampling.noise`)
DRAW = 2**32 - 1


def check_kind(kind: str) -> None:
    """Refuses what `labels_of` does not know.

    Raises:
      UserError: naming the nearest.
    """
    if kind not in KINDS:
        raise UserError(f"no generate.labels {kind!r}{nearest(kind, KINDS)}")


def labels_of(kind: str, seed: int, numbers: np.ndarray, classes: int) -> np.ndarray:
    """The classes of the images numbered `numbers` [N], int32 [N].

    Args:
      kind: "uniform" draws every class with the same probability from (seed, number), as published FIDs of
        class-conditional models do; "balanced" takes 0, 1, ..., 0, 1, ..., every class equally often.

    Raises:
      UserError: a seed outside 0..2^32-1.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"seed must lie in 0..2^32-1, got {seed!r}")
    if kind == "balanced":
        return (numbers % classes).astype(np.int32)
    root = jax.random.key(np.uint32(seed))

    @jax.jit
    @jax.vmap
    def one(number: jax.Array) -> jax.Array:
        return jax.random.randint(jax.random.fold_in(jax.random.fold_in(root, number), DRAW), (), 0, classes)

    return np.asarray(one(numbers.astype(np.uint32)), np.int32)


def balanced_labels(n: int, classes: int) -> np.ndarray:
    """n labels with every class equally often (to within one): 0, 1, ..., 0, 1, ..."""
    return np.arange(n) % classes


@dataclass(frozen=True)
class Requests:
    """What is asked for to be scored, and how it is drawn.

    Attributes:
      asked: labels, int [N], or N captions.
      told: of captions their features, which a model is told in their place, made once.
      latents: (F, H, W, C) of what is denoised for each; None where all are of the model's own size.
    """

    asked: Sequence[Any]
    told: Sequence[Any] | None = None
    latents: Sequence[tuple[int, ...]] | None = None
    _sized: dict[tuple[int, ...], FlexiDiT] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, flex: FlexiDiT, dataset: Any, count: int) -> Requests:
        """So many, of the classes or captions of a dataset.

        Raises:
          UserError: it has neither, or the model reads no texts.
        """
        if not hasattr(dataset, "captions"):
            return cls(labels_for(dataset, count))
        captions = dataset.captions(count)
        latents = [tuple(flex.codec.latent_shape(dataset.size(caption))) for caption in captions]
        return cls(captions, flex.features(captions), latents)

    def draw(
        self,
        flex: FlexiDiT,
        spec: SampleSpec,
        rows: slice = slice(None),
        first: int = 0,
        progress: bool | Callable[[int], object] = True,
        **words: Any,
    ) -> Images:
        """The images of rows: those of one size as one array.

        Args:
          spec: how.
          first: number of the first of all, from which images are counted on; within rows one size after the other.
          progress: show a bar, or what to call after each step with the number of images that took it.
          words: of `FlexiDiT.sample`.
        """
        told = (self.asked if self.told is None else self.told)[rows]
        latents = [None] * len(told) if self.latents is None else self.latents[rows]
        images: list[np.ndarray] = [np.empty(0)] * len(told)
        first += rows.start or 0
        for latent in dict.fromkeys(latents):
            here = [i for i, other in enumerate(latents) if other == latent]
            model = flex if latent is None else self._sized.setdefault(latent, flex.sized(latent))
            step = partial(progress, len(here)) if callable(progress) else progress
            some = told if len(here) == len(told) else [told[i] for i in here]
            drawn = model.sample(some, spec=spec, first=first, progress=step, **words)
            if len(here) == len(told):
                return drawn
            for i, image in zip(here, drawn, strict=True):
                images[i] = image
            first += len(here)
        return images

    def titles(self, dataset: Any) -> tuple[list[str], str]:
        """What the first are asked for, in words: every class once, or some captions; and what these words are."""
        if self.told is None:
            return [str(label) for label in self.asked[: dataset.classes]], "class"
        return [*self.asked[:CAPTIONS]], "caption"


def labels_for(dataset: Any, count: int) -> np.ndarray:
    """So many labels of a dataset, every class equally often.

    Raises:
      UserError: it has no classes.
    """
    if getattr(dataset, "classes", None) is None:
        raise UserError(
            "samples are scored by what the dataset can ask for, and this one has neither classes nor captions to ask"
            " for (see data/__init__.py); --mode=generate draws images, which --mode=evaluate without --config scores"
        )
    return balanced_labels(count, dataset.classes)
