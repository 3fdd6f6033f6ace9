"""T5's buckets and biases are those of the transformers library, block by block."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest

from flexidit_jax.common.types import Params
from flexidit_jax.models.pretrained.t5 import Block, T5Encoder, bucket
from flexidit_jax.text.t5 import T5, load

FOLDER = Path(__file__).parents[2] / "golden"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(FOLDER / "t5_tiny.npz"))


@pytest.fixture(scope="module")
def tiny() -> T5:
    return load(FOLDER / "t5_tiny.safetensors")


def test_golden_buckets(golden: dict[str, np.ndarray], tiny: T5) -> None:
    np.testing.assert_array_equal(bucket(golden["relative_position"]), golden["bucket"])
    place = np.arange(12)
    bias = np.asarray(tiny._params["bias"])[bucket(place[None] - place[:, None])]  # [query, key, heads]
    np.testing.assert_array_equal(bias.transpose(2, 0, 1)[None], golden["bias_12"])


def test_golden_blocks(golden: dict[str, np.ndarray], tiny: T5) -> None:
    def is_block(module: object, method: str) -> bool:
        return isinstance(module, Block) and method == "__call__"

    ids, mask = golden["ids"], golden["mask"].astype(bool)

    @jax.jit
    def run(params: Params) -> tuple:
        captured = {"capture_intermediates": is_block, "mutable": ["intermediates"]}
        return tiny.model.apply({"params": params}, ids, mask, **captured)

    _, seen = run(tiny._params)
    for i in range(2):
        [found] = seen["intermediates"][f"block_{i}"]["__call__"]
        np.testing.assert_allclose(found[:, :24], golden[f"mid_block{i}"], atol=5e-5)


def test_published_sizes() -> None:
    """Parameters of the encoders of T5 v1.1: xxl and small."""

    def count(model: T5Encoder) -> int:
        inner = model.heads * model.size
        block = 4 * model.width * inner + 3 * model.width * model.hidden + 2 * model.width
        return model.words * model.width + 32 * model.heads + model.depth * block + model.width

    assert round(count(T5Encoder()) / 1e6) == 4762
    assert round(count(T5Encoder(width=512, hidden=1024, depth=8, heads=6)) / 1e5) == 353
