"""Distance to the nearest training image: near zero would mean memorised samples."""

from __future__ import annotations

import numpy as np


def mean_nearest_distance(images: np.ndarray, training: np.ndarray, chunk: int = 512) -> float:
    """Mean over images of the Euclidean distance to the nearest training image, pixels in [-1, 1].

    Args:
      images, training: uint8 [N, ...] and [M, ...] of one image shape.
      chunk: images compared at a time.
    """
    a = images.reshape(len(images), -1) / 127.5
    b = training.reshape(len(training), -1) / 127.5
    squares = (b**2).sum(1)
    nearest = []
    for begin in range(0, len(a), chunk):
        part = a[begin : begin + chunk]
        squared = (part**2).sum(1)[:, None] + squares - 2 * part @ b.T
        nearest.append(np.sqrt(np.clip(squared.min(1), 0, None)))
    return float(np.concatenate(nearest).mean())
