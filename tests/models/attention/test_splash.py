"""The kernel of TPUs, by its interpreter against ours, and compiled for TPUs that are not there."""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from flexidit_jax.common import axes
from flexidit_jax.models.attention import splash, xla
from flexidit_jax.models.attention.backend import attend
from flexidit_jax.models.attention.seen import Seen
from flexidit_jax.programs.slices import tpu_slice

TPU_COMPILER = importlib.util.find_spec("libtpu") is not None or "TPU_LIBRARY_PATH" in os.environ

#: 64 tokens of head width 72, both less than the kernel takes at once; and two images in a row, each with a text
ALONE = (64, 64, 72, None)
IMAGES, WORDS = np.arange(40)[None] // 20, np.array([[0] * 7 + [1] * 6, [0] * 5 + [-1] * 3 + [1] * 5])
TEXTS = (40, 13, 16, Seen(IMAGES.astype(np.int32), WORDS.astype(np.int32)))


def inputs(queries: int, keys: int, width: int) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(2, n, 2, width)).astype(np.float32) for n in (queries, keys, keys)]


def both(run: Any, arrays: list[Any], seen: Seen | None) -> Any:
    """The result and the gradients of its sine."""
    loss = lambda *arrays: jnp.sum(jnp.sin(run(*arrays, seen).astype(jnp.float32)))  # noqa: E731
    with jax.default_matmul_precision("highest"):
        return jax.jit(partial(run, seen=seen))(*arrays), jax.jit(jax.grad(loss, (0, 1, 2)))(*arrays)


@pytest.mark.parametrize("case", [ALONE, TEXTS], ids=["alone", "texts"])
def test_its_interpreter_is_ours(case: tuple[int, int, int, Seen | None]) -> None:
    *shape, seen = case
    arrays = inputs(*shape)
    exact = both(xla.attend, arrays, seen)
    theirs = both(partial(splash.attend, interpret=True), arrays, seen)
    for a, b in zip(jax.tree.leaves(theirs), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
    rounded = [jnp.asarray(array, jnp.bfloat16) for array in arrays]
    errors = [
        np.abs(np.asarray(run(*rounded, seen), np.float32) - exact[0]).mean()
        for run in (partial(splash.attend, interpret=True), xla.attend)
    ]
    assert errors[0] <= 1.5 * errors[1]


def test_blocks_make_no_sequence_longer_than_it_has_to_be() -> None:
    lengths = (1, 64, 128, 256, 300, 1024, 1100, 4096)
    assert [splash._filled(tokens) for tokens in lengths] == [
        (128, 128), (128, 128), (128, 128), (256, 256), (384, 384), (1024, 512), (1152, 384), (4096, 512)
    ]  # fmt: skip


# ---------------------------------------------------------------- TPUs that are not there


def compiled(arrays: list[Any], where: AbstractContextManager, seen: Seen | None = None) -> str:
    """The text of a program that computes gradients."""
    loss = lambda *arrays: attend("auto", *arrays, seen).astype(jnp.float32).sum()  # noqa: E731
    with where:
        return jax.jit(jax.grad(loss, (0, 1, 2))).lower(*arrays).compile().as_text()


@pytest.mark.skipif(not TPU_COMPILER, reason="libtpu is not installed")
@pytest.mark.parametrize("case", [ALONE, TEXTS, (1024, 1024, 72, None)], ids=["alone", "texts", "512 pixels"])
def test_it_compiles_for_a_tpu(case: tuple[int, int, int, Seen | None], capsys: pytest.CaptureFixture[str]) -> None:
    queries, keys, width, seen = case
    (chip,) = tpu_slice("v5e:1x1").devices
    where = SingleDeviceSharding(chip)
    arrays = [jax.ShapeDtypeStruct((2, n, 2, width), jnp.bfloat16, sharding=where) for n in (queries, keys, keys)]
    text = compiled(arrays, axes.on(chip), seen)
    assert text.count('custom_call_target="tpu_custom_call"') == 3  # forward, and of the gradients two
    assert f"2,2,{queries},{keys}]" not in text  # no scores outside them
    assert capsys.readouterr().err == "note: attention runs by the fused kernel splash\n"


@pytest.mark.skipif(not TPU_COMPILER, reason="libtpu is not installed")
def test_every_device_runs_it_on_its_own_rows_and_heads() -> None:
    mesh = Mesh(np.array(tpu_slice("v5e:2x4").devices).reshape(2, 2, 2), ("data", "fsdp", "tensor"))
    where = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor"))
    text = compiled([jax.ShapeDtypeStruct((8, 256, 4, 72), jnp.bfloat16, sharding=where)] * 3, axes.using(mesh))
    assert "bf16[2,2,256,72]" in text and "bf16[8,4,256,72]" not in text
    assert "all-gather" not in text and "all-to-all" not in text


@pytest.mark.skipif(not TPU_COMPILER, reason="libtpu is not installed")
def test_every_device_runs_it_on_its_own_queries_where_heads_do_not_divide() -> None:
    mesh = Mesh(np.array(tpu_slice("v5e:2x4").devices).reshape(1, 2, 4), ("data", "fsdp", "tensor"))
    where = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
    text = compiled([jax.ShapeDtypeStruct((2, 1022, 3, 72), jnp.bfloat16, sharding=where)] * 3, axes.using(mesh))
    assert text.count('custom_call_target="tpu_custom_call"') == 3
    assert "bf16[3,256,72]" in text and "bf16[3,1024,72]" in text  # of 1022 queries 256; what keys and values are given
