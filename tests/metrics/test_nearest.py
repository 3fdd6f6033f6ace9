"""Distance to the nearest training image."""

from __future__ import annotations

import numpy as np
import pytest

from flexidit_jax.metrics.nearest import mean_nearest_distance


@pytest.fixture
def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return tuple(rng.integers(0, 256, (n, 4, 4, 3), dtype=np.uint8) for n in (7, 20))


@pytest.mark.parametrize("chunk", [1, 3, 7, 512])
def test_against_all_pairs(pictures: tuple[np.ndarray, np.ndarray], chunk: int) -> None:
    images, training = pictures
    pairs = (images[:, None].astype(float) - training[None].astype(float)) / 127.5
    expected = np.sqrt((pairs**2).sum((2, 3, 4))).min(1).mean()
    np.testing.assert_allclose(mean_nearest_distance(images, training, chunk), expected, rtol=1e-9)


def test_a_copy_is_at_zero(pictures: tuple[np.ndarray, np.ndarray]) -> None:
    assert mean_nearest_distance(pictures[1][5:9], pictures[1]) < 1e-6


def test_the_unit_is_half_the_range_of_a_pixel() -> None:
    black, white = np.zeros((1, 2, 2, 1), np.uint8), np.full((1, 2, 2, 1), 255, np.uint8)
    np.testing.assert_allclose(mean_nearest_distance(black, white), 2 * 2)  # 2 per pixel, four pixels
