"""The two files that hold the Inception of FID -> its parameters, batch norms folded into the convolutions.

As torch-fidelity and pytorch-fid publish it, a state dict of 472 tensors: `<stage>[.<branch>].conv.weight`, `.bn.*`,
`fc.*`. As TensorFlow published it, constants of a graph: `<stage>[/<tower>]/<conv>/conv2d_params`, `batchnorm/*`,
`softmax/*`.
"""

from __future__ import annotations

import re
from functools import cache

import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.trees import unflatten
from flexidit_jax.common.types import Params
from flexidit_jax.common.weights import Network
from flexidit_jax.models.pretrained.inception import SIDE, Inception
from flexidit_jax.models.pretrained.published import StateDict, check_named, ours, shapes_of

#: as torch-fidelity publishes it; the digits begin its SHA-256
FILE = "weights-inception-2015-12-05-6726825d.pth"
#: of every batch norm
EPSILON = 1e-3
CLASSES = 1008
STEM = ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3")
MIXED = ("5b", "5c", "5d", "6a", "6b", "6c", "6d", "6e", "7a", "7b", "7c")
NETWORK = Network(
    "Inception",
    "Conv2d_1a_3x3.conv.weight",
    (*STEM, *(f"Mixed_{block}" for block in MIXED), "fc", "AuxLogits"),
    unread=r"\.num_batches_tracked$",
)
#: where a family of convolutions lies within a block of the graph; `Mixed_6a` begins with `3x3`
TOWERS = {"1x1": "", **dict.fromkeys(("5x5", "7x7", "3x3"), "tower/")}
TOWERS |= {**dict.fromkeys(("3x3dbl", "7x7dbl", "7x7x3"), "tower_1/"), "pool": "tower_2/"}
TOWERS_OF_6A = {"3x3": "", "3x3dbl": "tower/"}
NORMS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}


def read_inception(state: StateDict) -> Params:
    """A state dict of the published names -> parameters of `Inception`, float32.

    Raises:
      UserError: torchvision's Inception, or missing, extra or misshapen tensors.
    """
    check_inception(state)
    params = {}
    for conv in convolutions():
        norm = {key: state[f"{conv}.bn.{key}"].astype(np.float64) for key in NORMS}
        gain = norm["weight"] / np.sqrt(norm["running_var"] + EPSILON)  # [out]
        kernel = state[f"{conv}.conv.weight"] * gain[:, None, None, None]  # [out, in, h, w]
        path = conv.replace(".", "/")
        params[f"{path}/kernel"] = ours("kernel", kernel.astype(np.float32))
        params[f"{path}/bias"] = (norm["bias"] - norm["running_mean"] * gain).astype(np.float32)
    params["fc"] = ours("kernel", state["fc.weight"].astype(np.float32))  # its bias is left out of every score
    return unflatten(params)


def published(state: StateDict) -> StateDict:
    """What either file holds, by the names of the state dict."""
    if f"{graph_name(STEM[0])}/conv2d_params" not in state:
        return state
    named = {}
    for name in published_shapes():
        conv, _, leaf = name.rpartition(".")
        conv, _, kind = conv.rpartition(".")
        if not conv:
            source = f"softmax/{'weights' if leaf == 'weight' else 'biases'}"
        else:
            source = graph_name(conv) + ("/conv2d_params" if kind == "conv" else f"/batchnorm/{NORMS[leaf]}")
        if source in state:
            array = state[source]
            axes = {2: (1, 0), 4: (3, 2, 0, 1)}.get(array.ndim)
            named[name] = np.ascontiguousarray(array.transpose(axes)) if axes else array
    return named


def check_inception(state: StateDict) -> None:
    """Refuses what is not the Inception of FID.

    Raises:
      UserError: torchvision's Inception, or missing, extra or misshapen tensors.
    """
    classes = len(state["fc.weight"]) if "fc.weight" in state else CLASSES
    if classes == 1000 or any(name.startswith("AuxLogits") for name in state):
        raise UserError(f"torchvision's Inception, whose weights and pools are not those of FID; take {FILE}")
    check_named(published_shapes(), state, "the Inception of FID")


def graph_name(conv: str) -> str:
    """A convolution `Mixed_7b.branch3x3dbl_3a` by its name in TensorFlow's graph, `mixed_9/tower_1/mixed/conv`."""
    stage, _, branch = conv.partition(".")
    if not branch:
        return _numbered("conv", STEM.index(stage))
    block = stage.removeprefix("Mixed_")
    family, number, side = re.fullmatch(r"branch_?(pool|[\dx]+(?:dbl)?)(?:_(\d)([ab]?))?", branch).groups()
    tower = (TOWERS_OF_6A if block == "6a" else TOWERS)[family]
    inner = f"mixed/{_numbered('conv', 'ab'.index(side))}" if side else _numbered("conv", int(number or 1) - 1)
    return f"{_numbered('mixed', MIXED.index(block))}/{tower}{inner}"


def _numbered(word: str, number: int) -> str:
    return f"{word}_{number}" if number else word


@cache
def published_shapes() -> dict[str, tuple[int, ...]]:
    """Shapes of the 472 tensors by name."""
    shapes = {}
    for conv, (height, width, channels, features) in convolutions().items():
        shapes[f"{conv}.conv.weight"] = (features, channels, height, width)
        shapes |= {f"{conv}.bn.{key}": (features,) for key in NORMS}
    return shapes | {"fc.weight": (CLASSES, 2048), "fc.bias": (CLASSES,)}


@cache
def convolutions() -> dict[str, tuple[int, ...]]:
    """The shape [h, w, in, out] of every convolution's kernel, by the name that is before `.conv` and `.bn`."""
    shapes = shapes_of(Inception(), jnp.zeros((1, SIDE, SIDE, 3)))
    kernels = {path.removesuffix("/kernel"): shape for path, shape in shapes.items() if path.endswith("/kernel")}
    return {path.replace("/", "."): shape for path, shape in kernels.items()}
