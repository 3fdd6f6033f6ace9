"""Clips decoded a part at a time, each once, in whatever order they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from flexidit_jax.common.types import Array


class Streamed(Sequence):
    """The clips of latents [N, F, h, w, C], uint8 [F, H, W, 3] each.

    Args:
      codec: one that decodes in `pieces`.
      advance: told after every piece which share of its clip that was.
    """

    def __init__(self, codec: Any, latents: Array, advance: Callable[[float], None] = lambda share: None) -> None:
        self._codec, self._latents, self._advance, self._whole = codec, latents, advance, {}
        self._frames = codec.data_shape(latents.shape[1:])[0]

    def __len__(self) -> int:
        return len(self._latents)

    def __getitem__(self, i: int) -> np.ndarray:
        if not 0 <= i < len(self):
            raise IndexError(i)
        if i not in self._whole:
            for _ in self.parts(i):
                pass
        return self._whole[i]

    def parts(self, i: int) -> Iterator[np.ndarray]:
        """Clip i in parts uint8 [f, H, W, 3], each as soon as it is decoded."""
        if i in self._whole:
            yield self._whole[i]
            return
        made = []
        for part in self._codec.pieces(self._latents[i : i + 1]):
            made.append(part[0])
            self._advance(part.shape[1] / self._frames)
            yield part[0]
        self._whole[i] = np.concatenate(made)
