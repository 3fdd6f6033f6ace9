"""Features and numbers that other evaluators made of them (`golden/README.md`)."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.npz"


@pytest.fixture(scope="session")
def oracle() -> dict[str, np.ndarray]:
    """What the evaluators made, and `reference` [400, 64], `sample` [500, 64] and `logits` [500, 40] again."""
    made = dict(np.load(GOLDEN))
    seed = int(made["seed"])

    def draw(key: str, *shape: int) -> np.ndarray:
        return np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(shape)

    def features(key: str, count: int, shift: float, scale: float) -> np.ndarray:
        z = draw(key, count, 64)
        z += 0.5 * np.roll(z, 1, axis=1)
        return (np.abs(scale * z + shift) * (1 + np.arange(64)) / 64).astype(np.float32)

    made["reference"], made["sample"] = features("reference", 400, 0.3, 1.0), features("sample", 500, 0.45, 0.9)
    made["logits"] = (3 * draw("logits", 500, 40)).astype(np.float32)
    for key in ("reference", "sample", "logits"):
        assert zlib.crc32(made[key].tobytes()) == made[f"{key}_crc"]
    return made
