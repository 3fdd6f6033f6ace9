"""CLIP score: how near images are to their prompts. It means nothing without the model that embedded both."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics.cmmd import unit
from flexidit_jax.metrics.estimate import Estimate, mean_of
from flexidit_jax.metrics.score import Images, Score


@dataclass(frozen=True)
class Metric:
    """See `clip_score`."""

    reads, compares = ("pool", "prompts"), ()
    numbers = ("clip_score",)

    def check(self, samples: int, reference: int | None) -> None:
        """Any number will do."""

    def scores(self, samples: Images, reference: Images, features: str) -> list[Score]:
        """The one.

        Raises:
          UserError: see `clip_score`.
        """
        return [Score.of("clip_score", clip_score(samples.array("pool"), samples.array("prompts")))]


def clip_score(images: np.ndarray, prompts: np.ndarray) -> Estimate:
    """The mean of 100 max(cos, 0) of embeddings [N, D] of images and of their prompts.

    Raises:
      UserError: not a prompt an image, none at all, or embeddings of different models.
    """
    if images.shape != prompts.shape or not len(images):
        raise UserError(
            f"a CLIP score needs an embedding of a prompt beside that of every image, got {_shape(images)} of images"
            f" and {_shape(prompts)} of prompts"
        )
    return mean_of(np.maximum((unit(images) * unit(prompts)).sum(1), 0), 100)


def _shape(embeddings: np.ndarray) -> str:
    return f"{len(embeddings):,} x {embeddings.shape[1]}"
