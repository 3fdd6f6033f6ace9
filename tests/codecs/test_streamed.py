"""Clips are decoded a part at a time, each once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from flexidit_jax.codecs.streamed import Streamed


class Codec:
    """Of a latent frame of value n come one frame, or of later ones two, of value n."""

    def __init__(self) -> None:
        self.decoded: list[float] = []

    def data_shape(self, latent: tuple[int, ...]) -> tuple[int, ...]:
        return 2 * latent[0] - 1, *latent[1:]

    def pieces(self, latents: np.ndarray) -> Iterator[np.ndarray]:
        for i in range(latents.shape[1]):
            self.decoded.append(float(latents[0, i].max()))
            yield np.full((1, 1 + (i > 0), 2, 2, 3), latents[0, i].max(), np.uint8)


def test_each_clip_is_decoded_once() -> None:
    codec, shares = Codec(), []
    latents = np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1, 1)
    clips = Streamed(codec, latents, shares.append)
    parts = clips.parts(1)
    assert next(parts)[0, 0, 0, 0] == 3 and codec.decoded == [3]  # no more than is asked for
    assert [part[:, 0, 0, 0].tolist() for part in parts] == [[4, 4], [5, 5]]
    assert clips[1][:, 0, 0, 0].tolist() == [3, 4, 4, 5, 5]
    assert clips[0].shape == (5, 2, 2, 3) and clips[0].max() == 2
    assert [part.shape for part in clips.parts(0)] == [(5, 2, 2, 3)]
    assert codec.decoded == [3, 4, 5, 0, 1, 2] and len(clips) == 2
    np.testing.assert_allclose(shares, [0.2, 0.4, 0.4] * 2)
    for number in (-1, 2):
        with pytest.raises(IndexError):
            clips[number]
