"""The published DiT state dict <-> plain DiT parameters.

Facts of the layout: torch linears are [out, in]; the patch embedding is a convolution kernel
[d, C, p, p]; the last linear writes a patch as (row, column, channel); `pos_embed` is a buffer, which some files lack.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import differences, misaxed, told
from flexidit_jax.common.types import Array, Params
from flexidit_jax.common.weights import Network
from flexidit_jax.models.build import SIZES, build_dit
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.fold import folded
from flexidit_jax.models.position import position_embedding

StateDict = Mapping[str, np.ndarray]

NETWORK = Network("DiT", "x_embedder.proj.weight", ("x_embedder", "t_embedder", "y_embedder", "blocks", "final_layer"))

#: our path below `blocks` -> the published name below `blocks.<i>`
BLOCK_LAYERS = {
    ("modulation",): "adaLN_modulation.1",
    ("attention", "qkv"): "attn.qkv",
    ("attention", "proj"): "attn.proj",
    ("mlp", "fc1"): "mlp.fc1",
    ("mlp", "fc2"): "mlp.fc2",
}


#: of a DiT whose file does not tell: a number, or numbers by width, of which the published ones need none
Heads: TypeAlias = int | Mapping[int, int] | None


def heads_of(width: int, given: Heads) -> int:
    """The number of heads, which a DiT state dict does not hold.

    Raises:
      UserError: not given, and the width is not a published one.
    """
    if isinstance(given, Mapping):
        given = given.get(width)
    if given is not None:
        if isinstance(given, bool) or not isinstance(given, (int, np.integer)) or given < 1 or width % given:
            raise UserError(f"num_heads={given!r} is not an integer that divides the width {width}")
        return int(given)
    published = {w: heads for w, _, heads in SIZES.values()}
    if width not in published:
        raise UserError(
            f"the number of heads is not in a DiT state dict and width {width} is not a published one"
            f" ({', '.join(map(str, published))}); pass num_heads="
        )
    return published[width]


def heads_as_wide(width: int, given: Heads, head: int, kind: str) -> int:
    """The number of heads of a kind of model, all published ones of which have heads of the same width.

    Raises:
      UserError: not given, and `head` does not divide the width.
    """
    if isinstance(given, Mapping):
        given = given.get(width)
    if given is None and width % head:
        raise UserError(
            f"the number of heads is not in a {kind} state dict, and width {width} is no multiple of {head}, that of a"
            " published head; pass num_heads="
        )
    return heads_of(width, width // head if given is None else given)


def stacked(layer: Callable[[int], np.ndarray], depth: int) -> np.ndarray:
    """[depth, ...] of what is made one layer after another, of which no more than one is held beside it."""
    first = layer(0)
    stack = np.empty((depth, *first.shape), first.dtype)
    for i in range(depth):
        stack[i] = layer(i) if i else first
    return stack


def read_dit(state: StateDict, num_heads: Heads = None, input_size: int | None = None) -> tuple[DiT, Params]:
    """A state dict of the published layout -> the model it describes and its plain parameters.

    Size, patch, classes and resolution are read off the tensors; so is the unit of the positions,
    which tells a weak mode exported from a FlexiDiT from a DiT pre-trained at that patch.

    Args:
      state: arrays by name, of any float type.
      num_heads: wanted where the width is not a published one.
      input_size: the latent's side, wanted where `pos_embed` is missing; positions are then those of the patch.

    Raises:
      UserError: missing, extra or misshapen keys (all named), or a model that the tensors alone do not tell.
    """
    model = _model_of(state, num_heads, input_size)
    if "pos_embed" not in state:
        positions = position_embedding(model.latent[:3], model.patch, model.patch, model.width)
        state = {**state, "pos_embed": positions[None]}
    expected = _shapes(model)
    problems = differences(expected, state)
    if problems:
        raise UserError("not a DiT state dict: " + told(problems))

    model = _with_positions(model, float32(state["pos_embed"]))

    def linear(name: str) -> Params:
        return {"kernel": float32(state[f"{name}.weight"]).T, "bias": float32(state[f"{name}.bias"])}

    blocks: Params = {}
    for path, name in BLOCK_LAYERS.items():
        layers = [linear(f"blocks.{i}.{name}") for i in range(model.depth)]
        node = blocks
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = {leaf: np.stack([layer[leaf] for layer in layers]) for leaf in ("kernel", "bias")}
    patch = model.patch
    deembed = linear("final_layer.linear")
    params = {
        "embed": {
            "kernel": float32(state["x_embedder.proj.weight"]).transpose(2, 3, 1, 0)[None],
            "bias": float32(state["x_embedder.proj.bias"]),
        },
        "timestep": {"fc1": linear("t_embedder.mlp.0"), "fc2": linear("t_embedder.mlp.2")},
        "conditioner": {"table": float32(state["y_embedder.embedding_table.weight"])},
        "blocks": blocks,
        "final": {"modulation": linear("final_layer.adaLN_modulation.1")},
        "deembed": {
            "kernel": deembed["kernel"].reshape(model.width, *patch, -1),
            "bias": deembed["bias"].reshape(*patch, -1),
        },
    }
    return model, params


def write_dit(model: DiT, params: Params) -> dict[str, np.ndarray]:
    """Plain parameters -> a state dict of the published layout, float32; the inverse of `read_dit`.

    Leaves of a FlexiDiT mode are folded into those of the layout (`models.fold`).

    Raises:
      UserError: a model the layout cannot hold (video, unequal patch sides, one modulation for all blocks, tokens of a
        condition).
    """
    frames, ph, pw = model.patch
    if model.latent[0] != 1 or frames != 1 or ph != pw or model.latent[1] != model.latent[2]:
        raise UserError("the published DiT layout holds square images and square patches only")
    if model.modulation != "block" or "cross_attention" in params["blocks"]:
        raise UserError("the published layout of DiT holds no modulation='single' and no cross-attention; save() does")
    params = folded(params)

    def linear(name: str, layer: Mapping[str, Array]) -> dict[str, np.ndarray]:
        return {f"{name}.weight": float32(layer["kernel"]).T, f"{name}.bias": float32(layer["bias"])}

    positions = position_embedding(model.latent[:3], model.patch, model.base_patch, model.width)
    state = {
        "pos_embed": positions[None],
        "x_embedder.proj.weight": float32(params["embed"]["kernel"])[0].transpose(3, 2, 0, 1),
        "x_embedder.proj.bias": float32(params["embed"]["bias"]),
        "y_embedder.embedding_table.weight": float32(params["conditioner"]["table"]),
    }
    state |= linear("t_embedder.mlp.0", params["timestep"]["fc1"])
    state |= linear("t_embedder.mlp.2", params["timestep"]["fc2"])
    for path, name in BLOCK_LAYERS.items():
        layer = params["blocks"]
        for key in path:
            layer = layer[key]
        for i in range(model.depth):
            state |= linear(f"blocks.{i}.{name}", {leaf: layer[leaf][i] for leaf in ("kernel", "bias")})
    deembed = params["deembed"]
    flat = {"kernel": deembed["kernel"].reshape(model.width, -1), "bias": deembed["bias"].reshape(-1)}
    state |= linear("final_layer.linear", flat)
    state |= linear("final_layer.adaLN_modulation.1", params["final"]["modulation"])
    return {name: np.ascontiguousarray(array) for name, array in state.items()}


def _with_positions(model: DiT, positions: np.ndarray) -> DiT:
    """The model whose positions are those of the file: some p0 that divides the patch."""
    patch = model.patch[1]
    for side in (p for p in range(patch, 0, -1) if patch % p == 0):
        base = (1, side, side)
        expected = position_embedding(model.latent[:3], model.patch, base, model.width)
        if np.abs(expected - positions[0]).max() < 1e-2:  # a bfloat16 file is rounded to 4e-3
            return model.clone(base_patch=base)
    raise UserError("pos_embed does not hold the sin-cos positions of a DiT; models with other positions are not read")


def float32(array: Array, copy: bool = True) -> np.ndarray:
    """On the host; without a copy itself where it is there."""
    return np.asarray(array).astype(np.float32, copy=copy)


def _model_of(state: StateDict, num_heads: Heads, input_size: int | None) -> DiT:
    """The model a state dict describes, from the few tensors that tell."""
    telling = {
        "x_embedder.proj.weight": 4,
        **({"pos_embed": 3} if "pos_embed" in state or input_size is None else {}),
        "final_layer.linear.weight": 2,
        "y_embedder.embedding_table.weight": 2,
        "blocks.0.mlp.fc1.weight": 2,
    }
    problems = misaxed(telling, state)
    if problems == ["missing pos_embed"]:
        raise UserError(
            "the state dict lacks pos_embed, which tells the latent's side; say it in a config.json beside the file,"
            ' such as {"input_size": 32}'
        )
    if problems:
        raise UserError("not a DiT state dict: " + told(problems))
    width, channels, patch, _ = state["x_embedder.proj.weight"].shape
    if "pos_embed" in state:
        input_size = round(state["pos_embed"].shape[1] ** 0.5) * patch
    outputs = state["final_layer.linear.weight"].shape[0]
    classes = state["y_embedder.embedding_table.weight"].shape[0] - 1
    names = "imagenet" if classes == 1000 else None  # the published models' data
    return build_dit(
        latent=(1, input_size, input_size, channels),
        conditioner={"name": "classes", "classes": classes, "names": names},
        patch=patch,
        width=width,
        depth=sum(bool(re.fullmatch(r"blocks\.\d+\.mlp\.fc1\.weight", key)) for key in state),
        num_heads=heads_of(width, num_heads),
        mlp_ratio=max(1, state["blocks.0.mlp.fc1.weight"].shape[0] // width),
        learn_variance=outputs == 2 * patch * patch * channels,
    )


def _shapes(model: DiT) -> dict[str, tuple[int, ...]]:
    """Every key of the layout with its shape, for a model."""
    d, p, c = model.width, model.patch[1], model.latent[-1]
    hidden, n = model.mlp_ratio * d, (model.latent[1] // p) ** 2
    out = p * p * c * (2 if model.learn_variance else 1)
    linears = {
        "t_embedder.mlp.0": (d, 256),
        "t_embedder.mlp.2": (d, d),
        "final_layer.linear": (out, d),
        "final_layer.adaLN_modulation.1": (2 * d, d),
    }
    blocks = [(6 * d, d), (3 * d, d), (d, d), (hidden, d), (d, hidden)]
    for i in range(model.depth):
        linears |= {f"blocks.{i}.{n}": shape for n, shape in zip(BLOCK_LAYERS.values(), blocks, strict=True)}
    shapes = {
        "pos_embed": (1, n, d),
        "x_embedder.proj.weight": (d, c, p, p),
        "x_embedder.proj.bias": (d,),
        "y_embedder.embedding_table.weight": (model.conditioner.classes + 1, d),
    }
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes
