"""CLIP score by hand."""

from __future__ import annotations

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics.clip_score import clip_score


def test_by_hand() -> None:
    images = np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [1.0, 0.0]])
    prompts = np.array([[5.0, 0.0], [1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    found = clip_score(images, prompts)
    each = 100 * np.array([1, 0, np.sqrt(0.5), 0])  # the last one points away, which counts as nothing
    assert found.value == pytest.approx(each.mean())
    assert found.error == pytest.approx(each.std() / 2)


def test_refusals() -> None:
    for images, prompts in [((3, 4), (2, 4)), ((3, 4), (3, 5)), ((0, 4), (0, 4))]:
        with pytest.raises(UserError) as caught:
            clip_score(np.ones(images), np.ones(prompts))
        assert str(caught.value) == (
            "a CLIP score needs an embedding of a prompt beside that of every image, got"
            f" {images[0]} x {images[1]} of images and {prompts[0]} x {prompts[1]} of prompts"
        )
