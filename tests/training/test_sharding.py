"""The table from parameter paths to mesh axes, and the refusals around it."""

from __future__ import annotations

import math
import re
from functools import partial
from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.trees import map_named
from flexidit_jax.models.build import build_dit, init
from flexidit_jax.models.flexify import at
from flexidit_jax.training.sharding import (
    RULES,
    check_axes,
    check_batch,
    make_mesh,
    mesh_over,
    placed,
    put_batch,
    shaped,
    shardings,
    share,
    spec,
)
from flexidit_jax.training.stages import Stage
from flexidit_jax.training.state import TrainState, abstract

#: `spec` reads nothing but the sizes of the axes
POD = SimpleNamespace(shape={"data": 2, "fsdp": 128, "tensor": 2})
D, DEPTH = 1152, 28  # DiT-XL
XL = build_dit((1, 32, 32, 4), {"name": "classes", "classes": 1000}, size="XL")
STAGES = (Stage(((1, 2, 2),), 1), Stage(((1, 2, 2), (1, 4, 4)), 1))


@pytest.mark.parametrize(
    ("path", "shape", "axes"),
    [
        ("trunk/blocks/attention/qkv/kernel", (DEPTH, D, 3 * D), P(None, "fsdp", "tensor")),
        ("trunk/blocks/attention/proj/kernel", (DEPTH, D, D), P(None, "tensor", "fsdp")),
        ("trunk/blocks/cross_attention/v/kernel", (DEPTH, D, D), P(None, "fsdp", "tensor")),
        ("trunk/blocks/mlp/fc1/kernel", (DEPTH, D, 4 * D), P(None, "fsdp", "tensor")),
        ("trunk/blocks/mlp/fc2/kernel", (DEPTH, 4 * D, D), P(None, "tensor", "fsdp")),
        ("trunk/blocks/modulation/kernel", (DEPTH, D, 6 * D), P(None, "fsdp", "tensor")),
        ("trunk/final/modulation/kernel", (D, 2 * D), P("fsdp", "tensor")),
        ("trunk/timestep/fc1/kernel", (256, D), P("fsdp", None)),
        ("trunk/timestep/fc2/kernel", (D, D), P("fsdp", None)),
        ("trunk/conditioner/table", (1001, D), P(None, "fsdp")),
        ("trunk/conditioner/null", (300, 4096), P(None, "fsdp")),
        ("trunk/conditioner/fc1/kernel", (4096, D), P("fsdp", "tensor")),
        ("trunk/conditioner/fc2/kernel", (D, D), P("tensor", "fsdp")),
        ("trunk/conditioner/resolution_embedding/fc1/kernel", (256, 384), P("fsdp", None)),
        ("trunk/conditioner/aspect_ratio_embedding/fc2/kernel", (384, 384), P("fsdp", None)),
        ("trunk/projection/blocks/kernel", (D, 6 * D), P("fsdp", "tensor")),
        ("tokens/embed/kernel", (1, 4, 4, 4, D), P(None, None, None, None, "fsdp")),
        ("tokens/deembed/kernel", (D, 1, 4, 4, 8), P("fsdp", None, None, None, None)),
        ("tokens/deembed/bias", (1, 4, 4, 8), P()),
        ("trunk/blocks/attention/qkv/bias", (DEPTH, 3 * D), P()),
        ("modes/1x2x2/patch_embedding", (D,), P()),
        ("modes/1x2x2/blocks/norm1/gain", (DEPTH, D), P()),
        ("modes/1x4x4/embed/kernel", (1, 4, 4, 4, D), P(None, None, None, None, "fsdp")),
        ("modes/1x4x4/deembed/kernel", (D, 1, 4, 4, 8), P("fsdp", None, None, None, None)),
        ("modes/1x4x4/blocks/attention/qkv/lora_a", (DEPTH, D, 32), P(None, "fsdp", None)),
        ("modes/1x4x4/blocks/attention/qkv/lora_b", (DEPTH, 32, 3 * D), P(None, None, "fsdp")),
        ("modes/1x4x4/blocks/mlp/fc1/lora_b", (DEPTH, 32, 4096), P(None, None, ("tensor", "fsdp"))),
        ("modes/1x4x4/blocks/mlp/fc2/lora_a", (DEPTH, 4096, 32), P(None, ("tensor", "fsdp"), None)),
        ("modes/1x4x4/blocks/attention/proj/lora_b", (DEPTH, 32, D), P(None, None, "fsdp")),
    ],
)
def test_the_table_on_stacked_leaves(path: str, shape: tuple[int, ...], axes: P) -> None:
    assert spec(path, shape, POD) == axes
    for prefix in ("params", "ema", "optimizer/0/mu", "optimizer/1/0/nu"):
        assert spec(f"{prefix}/{path}", shape, POD) == axes


def test_an_axis_that_does_not_divide_is_left_whole() -> None:
    assert spec("trunk/blocks/attention/qkv/kernel", (4, 96, 288), POD) == P(None, None, "tensor")
    assert spec("trunk/blocks/attention/qkv/kernel", (4, 128, 3), POD) == P(None, "fsdp", None)


@pytest.fixture(scope="module")
def state(flex: FlexiDiT, dit: FlexiDiT) -> TrainState:
    """The shapes of a training state of the golden model."""
    return abstract(lambda: at(dit.params, dit.model.base_patch), Stage(flex.patches, 5), optax.adamw(1e-3))


@pytest.fixture(scope="module", params=[None, 16], ids=["shared", "adapters"])
def small(request: pytest.FixtureRequest) -> TrainState:
    """The shapes of a training state of DiT-S/2 with modes 2 and 4."""
    model = build_dit((1, 32, 32, 4), {"name": "classes", "classes": 1000}, size="S")
    stage = Stage(((1, 2, 2), (1, 4, 4)), 5, adapters=request.param)
    return abstract(partial(init, model, jax.random.key(0)), stage, optax.adamw(1e-3))


def test_every_rule_meets_a_leaf_that_is_its_own(small: TrainState) -> None:
    met = set()
    map_named(lambda path, leaf: met.add(next((p for p, _ in RULES if re.search(p, path)), None)), small)
    adapted = bool(small.frozen)
    assert met - {None} == {pattern for pattern, _ in RULES if adapted or "lora" not in pattern}


@pytest.fixture(scope="module")
def texts() -> TrainState:
    """The shapes of a training state of a small PixArt with micro-conditions."""
    section = {"name": "text", "features": 4096, "length": 120, "null_length": 120, "resolution": (512, 512)}
    model = build_dit((1, 64, 64, 4), section, size="S", modulation="single", span=32.0)
    return abstract(partial(init, model, jax.random.key(0)), Stage(((1, 2, 2), (1, 4, 4)), 5), optax.adamw(1e-3))


@pytest.mark.parametrize(("fsdp", "tensor"), [(2, 1), (2, 2)])
def test_every_large_leaf_is_split(small: TrainState, texts: TrainState, fsdp: int, tensor: int) -> None:
    mesh, whole = SimpleNamespace(shape={"data": 1, "fsdp": fsdp, "tensor": tensor}), []

    def check(path: str, leaf: jax.ShapeDtypeStruct) -> None:
        axes = str(spec(path, leaf.shape, mesh))
        if leaf.size >= 2**16 and "fsdp" not in axes:
            whole.append(path)
        in_blocks = re.search(r"(qkv|/[qkv]|proj|fc1|fc2|modulation|projection/blocks)/kernel$", path)
        in_blocks = in_blocks and not re.search("timestep|_embedding/", path)
        assert ("tensor" in axes) == bool(in_blocks or re.search(r"(qkv|fc1)/lora_b$|(proj|fc2)/lora_a$", path)), path

    map_named(check, small)
    map_named(check, texts)
    assert whole == []


def test_parameters_average_and_moments_lie_alike(state: TrainState) -> None:
    where = shardings(state, make_mesh())
    moments = where.optimizer[0]
    for tree in (where.ema, moments.mu, moments.nu):
        assert jax.tree.leaves(tree) == jax.tree.leaves(where.params)
    assert any("fsdp" in sharding.spec for sharding in jax.tree.leaves(where.params))
    for leaf, sharding in zip(jax.tree.leaves(shaped(state, make_mesh())), jax.tree.leaves(where), strict=True):
        assert leaf.sharding == sharding


def test_placing_changes_no_bit(flex: FlexiDiT) -> None:
    mesh = make_mesh()
    there = placed(flex.params, mesh)
    for ours, theirs in zip(jax.tree.leaves(there), jax.tree.leaves(flex.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.sharding.mesh == mesh
    batch = {"x": np.arange(8, dtype=np.float32).reshape(4, 2), "label": np.arange(4)}
    for key, value in put_batch(batch, mesh).items():
        np.testing.assert_array_equal(value, batch[key])


# ---------------------------------------------------------------- Several processes


def processes(shape: tuple[int, int, int], owners: list[int]) -> SimpleNamespace:
    """A mesh of which `share` reads the owners of the devices, in order."""
    devices = np.array([SimpleNamespace(process_index=owner) for owner in owners], object).reshape(shape)
    local = [device for device in devices.flat if device.process_index == jax.process_index()]
    sizes = dict(zip(("data", "fsdp", "tensor"), shape, strict=True))
    return SimpleNamespace(devices=devices, shape=sizes, local_devices=local)


@pytest.mark.parametrize(
    ("shape", "owners", "part"),
    [
        ((8, 1, 1), [0, 0, 0, 0, 1, 1, 1, 1], (0, 2)),
        ((8, 1, 1), [1, 1, 1, 1, 0, 0, 0, 0], (1, 2)),  # the order of devices decides, not the number of the process
        ((2, 4, 1), [0] * 4 + [1] * 4, (0, 2)),
        ((1, 8, 1), [2, 2, 1, 1, 0, 0, 3, 3], (2, 4)),
        ((2, 2, 2), [0] * 4 + [1] * 4, (0, 2)),
        ((1, 2, 4), [1, 1, 0, 0, 2, 2, 3, 3], (0, 2)),  # a tensor axis over two processes: both hold the same rows
        ((1, 1, 8), [0] * 4 + [1] * 4, (0, 1)),
        ((4, 1, 1), [0, 1, 0, 1], (0, 2)),  # as on a TPU
    ],
)
def test_the_part_of_a_process(shape: tuple[int, int, int], owners: list[int], part: tuple[int, int]) -> None:
    assert share(processes(shape, owners)) == part


@pytest.mark.parametrize(
    ("shape", "owners"), [((2, 1, 3), [0, 0, 1, 1, 2, 2]), ((2, 2, 3), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2])]
)
def test_parts_that_overlap_are_refused(shape: tuple[int, int, int], owners: list[int]) -> None:
    message = r"^mesh data=2 x .* tensor=3 gives processes of \d device\(s\) rows of the batch that overlap"
    with pytest.raises(UserError, match=message):
        share(processes(shape, owners))


# ---------------------------------------------------------------- Refusals


def test_the_mesh_takes_what_is_left() -> None:
    assert jax.device_count() == 1
    for words in ({}, {"data": 1, "fsdp": -1}, {"data": 1, "fsdp": 1, "tensor": 1}):
        mesh = make_mesh(**words)
        assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}


@pytest.mark.parametrize(
    ("words", "would_do"),
    [
        ({"data": 2}, "data=1"),
        ({"data": 1, "tensor": 2}, "tensor=1"),
        ({"data": 0}, "data=1"),
        ({"data": -2}, "data=1"),
        ({"fsdp": 3}, "fsdp=1"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(words: dict[str, int], would_do: str) -> None:
    with pytest.raises(UserError, match=rf"^mesh data=.* does not fit 1 device\(s\); {would_do} would do$"):
        make_mesh(**words)


@pytest.mark.parametrize(
    ("words", "would_do"),
    [
        ({"data": 48, "fsdp": 4}, "data=64 would do"),
        ({"data": 32, "fsdp": 12, "tensor": 2}, "fsdp=4 would do"),
        ({"fsdp": 48}, "fsdp=16 would do"),
        ({"fsdp": 3, "tensor": 5}, "the sizes must multiply to 256"),
        ({"data": -1, "fsdp": -1}, "the sizes must multiply to 256"),
    ],
)
def test_the_axis_that_would_do_on_a_pod(words: dict[str, int], would_do: str) -> None:
    with pytest.raises(UserError, match=rf" does not fit 256 device\(s\); {would_do}$"):
        mesh_over([None] * 256, **words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"data": 1, "fsdp": 256, "tensor": 1},
            "mesh fsdp=256 does not divide the model's width 1152, so it would split no kernel;"
            " fsdp=128 would, with data=2",
        ),
        (
            {"data": 2, "fsdp": 4, "tensor": 128},
            "mesh tensor=128 does not divide the model's 16 attention heads, nor split the 64 tokens of patch 4;"
            " tensor=16 would, with data=16",
        ),
        (
            {"data": 1, "fsdp": 1, "tensor": 72},
            "mesh tensor=72 does not divide the model's 16 attention heads, nor split the 64 tokens of patch 4;"
            " tensor=8 would, with data=9",
        ),
    ],
)
def test_an_axis_that_would_split_nothing_is_refused(words: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        check_axes(XL, STAGES, SimpleNamespace(shape=words, size=math.prod(words.values())))


@pytest.mark.parametrize("tensor", [16, 12, 32, 64])
def test_an_axis_that_splits_heads_or_tokens(tensor: int) -> None:
    """12 neither divides the heads nor the tokens: the last device has fewer of these."""
    check_axes(XL, STAGES, SimpleNamespace(shape={"data": 2, "fsdp": 128, "tensor": tensor}, size=256 * tensor))


@pytest.mark.parametrize(("batch", "would_do"), [(15, 12), (3, 4), (13, 12), (1, 4)])
def test_a_batch_that_does_not_split_is_refused_and_one_that_does_named(batch: int, would_do: int) -> None:
    mesh = SimpleNamespace(shape={"data": 2, "fsdp": 2, "tensor": 5})
    message = rf"^train\.batch={batch} is not divisible by the 4 device\(s\) along data x fsdp; {would_do} would do$"
    with pytest.raises(UserError, match=message):
        check_batch(batch, mesh)
    check_batch(would_do, mesh)


def test_a_batch_that_does_not_split_into_parts_is_refused_and_what_would_do_named() -> None:
    mesh = SimpleNamespace(shape={"data": 2, "fsdp": 2, "tensor": 5})
    message = (
        r"^train\.batch=24 gives each of the 4 device\(s\) along data x fsdp 6 record\(s\), which do not split into"
        r" train\.accumulate=4 parts; train\.accumulate=3 would do, or train\.batch=16$"
    )
    with pytest.raises(UserError, match=message):
        check_batch(24, mesh, 4)
    check_batch(24, mesh, 3)
    check_batch(16, mesh, 4)
    with pytest.raises(UserError, match=r"train\.accumulate=2 would do, or train\.batch=32$"):
        check_batch(8, mesh, 8)


@pytest.mark.parametrize("batch", [0, -4])
def test_an_empty_batch_is_refused(batch: int) -> None:
    with pytest.raises(UserError, match=rf"^train\.batch={batch} is not divisible"):
        check_batch(batch, SimpleNamespace(shape={"data": 2, "fsdp": 2}))
