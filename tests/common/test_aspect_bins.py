"""PixArt's bins: which there are at a size, and which is nearest to a ratio."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from flexidit_jax.common.aspect_bins import BINS, bins, nearest_bins


def test_bins_are_those_of_pixart() -> None:
    keys = {round(height / width, 2): (height, width) for height, width in BINS}
    assert len(keys) == len(BINS) == 40
    known = {0.25: (128, 512), 0.52: (176, 336), 0.6: (192, 320), 1.0: (256, 256), 1.07: (256, 240), 1.46: (304, 208)}
    assert known.items() <= keys.items() and 1.91 not in keys
    assert all(0.9 < height * width / 256**2 < 1.05 for height, width in BINS)


def test_bins_of_a_size_are_those_whose_sides_are_whole_multiples() -> None:
    assert bins(256, (1, 1)) == list(BINS) and bins(512, (32, 32)) == [(2 * h, 2 * w) for h, w in BINS]
    assert (256, 256) in (some := bins(256, (32, 32))) and all(h % 32 == w % 32 == 0 for h, w in some)
    assert (240, 256) in bins(256, (16, 32)) and (256, 240) not in bins(256, (16, 32))  # heights, then widths
    assert bins(4, (1, 1)) == [(2, 8), (3, 5), (4, 4), (8, 2), (5, 3)] and bins(7, (1, 1)) == [(7, 7)]


def test_the_nearest_bin_of_every_ratio_is_that_of_the_nearest_key() -> None:
    ratios = np.concatenate([np.linspace(0.05, 6, 301), [0.255, 1.0]])
    keys = [round(h / w, 2) for h, w in BINS]
    found = nearest_bins(BINS, ratios)
    assert found.dtype == np.int32
    assert found.tolist() == [min(range(len(keys)), key=lambda k: abs(keys[k] - ratio)) for ratio in ratios]
    assert [BINS[i] for i in nearest_bins(BINS, [Fraction(2, 3), 3.0])] == [(208, 304), (432, 144)]
