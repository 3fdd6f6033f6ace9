"""The names of Inception's files: 472 of the state dict, those of TensorFlow's graph; norms folded into kernels."""

from __future__ import annotations

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.models.pretrained.inception_layout import (
    check_inception,
    convolutions,
    graph_name,
    published,
    published_shapes,
    read_inception,
)

NAMES = {
    "Conv2d_1a_3x3": "conv",
    "Conv2d_4a_3x3": "conv_4",
    "Mixed_5b.branch1x1": "mixed/conv",
    "Mixed_5b.branch5x5_1": "mixed/tower/conv",
    "Mixed_5c.branch5x5_2": "mixed_1/tower/conv_1",
    "Mixed_5d.branch3x3dbl_3": "mixed_2/tower_1/conv_2",
    "Mixed_5d.branch_pool": "mixed_2/tower_2/conv",
    "Mixed_6a.branch3x3": "mixed_3/conv",
    "Mixed_6a.branch3x3dbl_1": "mixed_3/tower/conv",
    "Mixed_6a.branch3x3dbl_3": "mixed_3/tower/conv_2",
    "Mixed_6b.branch7x7_3": "mixed_4/tower/conv_2",
    "Mixed_6d.branch1x1": "mixed_6/conv",
    "Mixed_6e.branch7x7dbl_5": "mixed_7/tower_1/conv_4",
    "Mixed_7a.branch3x3_2": "mixed_8/tower/conv_1",
    "Mixed_7a.branch7x7x3_4": "mixed_8/tower_1/conv_3",
    "Mixed_7b.branch3x3_1": "mixed_9/tower/conv",
    "Mixed_7b.branch3x3_2a": "mixed_9/tower/mixed/conv",
    "Mixed_7b.branch3x3_2b": "mixed_9/tower/mixed/conv_1",
    "Mixed_7c.branch3x3dbl_2": "mixed_10/tower_1/conv_1",
    "Mixed_7c.branch3x3dbl_3b": "mixed_10/tower_1/mixed/conv_1",
    "Mixed_7c.branch_pool": "mixed_10/tower_2/conv",
}

State = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def state() -> State:
    """Tensors of the published shapes, no two alike, that cost no memory: one number each, seen at every place."""
    shapes = published_shapes().items()
    return {name: np.broadcast_to(np.float32(1 + i / 100), shape) for i, (name, shape) in enumerate(shapes)}


def test_472_tensors_of_94_convolutions() -> None:
    shapes = published_shapes()
    assert (len(shapes), len(convolutions())) == (472, 94)
    assert sum(map(np.prod, shapes.values())) == 23_885_392
    assert shapes["Mixed_6b.branch7x7_2.conv.weight"] == (128, 128, 1, 7)
    assert shapes["Mixed_6b.branch7x7dbl_2.conv.weight"] == (128, 128, 7, 1)


@pytest.mark.parametrize("conv", NAMES)
def test_names_of_the_graph(conv: str) -> None:
    assert conv in convolutions()
    assert graph_name(conv) == NAMES[conv]


def test_no_two_names_of_the_graph_are_one() -> None:
    assert len(set(map(graph_name, convolutions()))) == 94


def test_a_graph_becomes_the_state_dict(state: State) -> None:
    assert published(state) is state
    small = {"Conv2d_1a_3x3", "Mixed_7c.branch3x3dbl_3b"}
    rng, there = np.random.default_rng(0), {}
    graph = {"softmax/weights": rng.random((5, 3), np.float32)}
    for conv in small:
        kernel, norms = rng.random((3, 2, 5, 4), np.float32), rng.random((4, 4), np.float32)  # [h, w, in, out]
        graph[f"{graph_name(conv)}/conv2d_params"] = kernel
        there[f"{conv}.conv.weight"] = np.einsum("hwio->oihw", kernel)
        names = ("gamma", "beta", "moving_mean", "moving_variance"), ("weight", "bias", "running_mean", "running_var")
        for theirs, ours, values in zip(*names, norms, strict=True):
            graph[f"{graph_name(conv)}/batchnorm/{theirs}"] = there[f"{conv}.bn.{ours}"] = values
    found = published(graph | {"Mul/y": np.float32(1 / 128)})
    assert found.keys() == there.keys() | {"fc.weight"}
    np.testing.assert_array_equal(found["fc.weight"], graph["softmax/weights"].T)
    for name, array in there.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_norms_are_folded(state: State) -> None:
    gamma, beta, mean, variance = (
        state[f"Mixed_5b.branch1x1.bn.{key}"][0].astype(float)
        for key in ("weight", "bias", "running_mean", "running_var")
    )
    kernel = state["Mixed_5b.branch1x1.conv.weight"][0, 0, 0, 0].astype(float)
    leaf = read_inception(state)["Mixed_5b"]["branch1x1"]
    assert leaf["kernel"].shape == (1, 1, 192, 64)
    np.testing.assert_allclose(leaf["kernel"], kernel * gamma / np.sqrt(variance + 1e-3), rtol=1e-6)
    np.testing.assert_allclose(leaf["bias"], beta - mean * gamma / np.sqrt(variance + 1e-3), rtol=1e-6)


def test_every_wrong_tensor_is_named(state: State) -> None:
    wrong = {name: array for name, array in state.items() if name != "fc.bias"}
    wrong |= {"Mixed_5b.branch1x1.bn.bias": np.zeros(3), "other": np.zeros(1)}
    with pytest.raises(UserError) as caught:
        check_inception(wrong)
    assert str(caught.value) == (
        "not a state dict of the Inception of FID: missing fc.bias; unexpected other;"
        " Mixed_5b.branch1x1.bn.bias is [3] instead of [64]"
    )
