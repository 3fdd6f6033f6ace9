"""The kernel of NVIDIA GPUs, compiled for one that is not there."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import SingleDeviceSharding

from flexidit_jax.common.axes import on
from flexidit_jax.common.errors import UserError
from flexidit_jax.models.attention.backend import attend
from flexidit_jax.models.attention.seen import Seen

pytestmark = pytest.mark.oracle

TEXT = Seen(np.zeros((1, 256), np.int32), np.arange(120, dtype=np.int32)[None] // 77)


@pytest.fixture(scope="module")
def card() -> Any:
    from flexidit_jax.programs.gpu_target import gpus

    try:
        return gpus("gpu:h100").devices[0]
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("queries", "keys", "width", "dtype", "seen", "calls"),
    [
        (256, 256, 72, "bfloat16", None, 2),
        (64, 64, 72, "bfloat16", None, 2),
        (256, 120, 64, "bfloat16", TEXT, 2),
        (256, 256, 20, "bfloat16", None, 0),
        (255, 255, 64, "bfloat16", None, 0),
        (256, 256, 64, "float32", None, 0),
    ],
)
def test_auto_compiles_for_a_gpu(
    card: Any, queries: int, keys: int, width: int, dtype: str, seen: Seen | None, calls: int
) -> None:
    """Forward and backward in one program."""
    arrays = [
        jax.ShapeDtypeStruct((2, n, 4, width), dtype, sharding=SingleDeviceSharding(card))
        for n in (queries, keys, keys)
    ]
    loss = lambda *arrays: attend("auto", *arrays, seen).astype(jnp.float32).sum()  # noqa: E731
    with on(card):
        text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*arrays).compile().as_text()
    assert text.count('custom_call_target="__cudnn$fmha') == calls
