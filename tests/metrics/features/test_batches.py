"""Batches of one shape: one program, nothing of the padding, the same on several devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics.features.batches import Batches, check_images

FILE = Path(__file__).parents[2] / "golden" / "dinov2_tiny.safetensors"


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5])
def test_every_row_once_and_in_order(rows: int) -> None:
    run = Batches({"w": jnp.float32(3)}, 2).over(lambda params, x: {"a": params["w"] * x, "b": (x > 0).sum(axis=1)})
    x = np.arange(1, 2 * rows + 1, dtype=np.float32).reshape(rows, 2)
    found = run(x)
    assert found.keys() == {"a", "b"}
    np.testing.assert_array_equal(found["a"], 3 * x)
    np.testing.assert_array_equal(found["b"], [2] * rows)


def test_the_network_is_compiled_once() -> None:
    traced = []

    def network(params: dict, x: np.ndarray) -> dict:
        traced.append(x.shape)
        return {"pool": x.sum(axis=(1, 2))}

    run = Batches({}, 4).over(network, lambda x: x[:, :3, :3])
    for rows, side in ((2, 3), (9, 3), (4, 5), (1, 8)):
        assert run(np.ones((rows, side, side, 1), np.float32))["pool"].tolist() == [[9]] * rows
    assert traced == [(4, 3, 3, 1)]


def test_images_are_checked() -> None:
    check_images(np.zeros((2, 4, 5, 3), np.uint8))
    for wrong, message in (
        (np.zeros((2, 4, 5, 3), np.float32), "got float32 [2, 4, 5, 3]"),
        (np.zeros((2, 4, 5, 3), np.uint16), "got uint16 [2, 4, 5, 3]"),
        (np.zeros((4, 5, 3), np.uint8), "got uint8 [4, 5, 3]"),
        (np.zeros((0, 4, 5, 3), np.uint8), "got uint8 [0, 4, 5, 3]"),
        ([1], "got [1]"),
        (
            np.zeros((2, 4, 5, 1), np.uint8),
            "got uint8 [2, 4, 5, 1]; repeat the channel of greyscale ones: np.repeat(images, 3, axis=-1)",
        ),
    ):
        with pytest.raises(UserError) as caught:
            check_images(wrong)
        assert str(caught.value) == f"images must be uint8 [B, H, W, 3], {message}"


SEVERAL = """
import sys
import jax, numpy as np
from flexidit_jax.metrics.features.dinov2 import Features

images = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), dtype=np.uint8)
one, several = (Features(sys.argv[1], "torch", batch=3, devices=n) for n in (1, None))
assert jax.local_device_count() == 2
assert several.extract(images)["pool"].shape == (5, 32)
print(np.abs(several.extract(images)["pool"] - one.extract(images)["pool"]).max() < 1e-5)
"""


@pytest.mark.slow
def test_several_devices_are_one(on_devices: Callable[..., str]) -> None:
    assert on_devices(2, "-c", SEVERAL, FILE) == "True\n"
