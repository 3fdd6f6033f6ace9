"""Bytes of images."""

from __future__ import annotations

import numpy as np

from flexidit_jax.common.pixels import to_uint8


def test_clipped_and_truncated() -> None:
    x = np.array([-9.0, -1.0, -0.999, 0.0, 0.5, 0.9999, 1.0, 9.0])
    np.testing.assert_array_equal(to_uint8(x), [0, 0, 0, 128, 191, 255, 255, 255])
    assert to_uint8(x).dtype == np.uint8
