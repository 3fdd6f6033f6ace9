"""The published state dicts of Wan 2.1's transformer <-> plain parameters.

Facts of the layouts, which differ in names alone (`convert.wan_names`): q, k and v are a linear each; their norms go
over the whole width; the rows of the last linear are (frame, row, column, channel); positions are not stored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import misaxed, misnamed, told
from flexidit_jax.common.trees import at_path, put
from flexidit_jax.common.types import Array, Params, short_patch_name
from flexidit_jax.convert.dit_layout import Heads, StateDict, float32, heads_as_wide, stacked
from flexidit_jax.convert.wan_names import CLASS, OTHERS, TABLE, in_diffusers, of_repository
from flexidit_jax.models.build import build_dit
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.fold import folded

#: channels of a latent of Wan 2.2's smallest
OF_5B = 48
#: width of a head of all published models
HEAD = 128
#: rows of a text, and latents of 81 frames at 480 x 832
LENGTH, LATENT = 512, (21, 60, 104)

#: path of a linear of ours -> its name in diffusers
OUTSIDE = {
    "timestep/fc1": "condition_embedder.time_embedder.linear_1",
    "timestep/fc2": "condition_embedder.time_embedder.linear_2",
    "projection/blocks": "condition_embedder.time_proj",
    "conditioner/fc1": "condition_embedder.text_embedder.linear_1",
    "conditioner/fc2": "condition_embedder.text_embedder.linear_2",
}
#: the same below `blocks` and `blocks.<i>`; q, k and v of `attn1` are one in ours
BLOCK = {
    "attention/proj": "attn1.to_out.0",
    "cross_attention/q": "attn2.to_q",
    "cross_attention/k": "attn2.to_k",
    "cross_attention/v": "attn2.to_v",
    "cross_attention/proj": "attn2.to_out.0",
    "mlp/fc1": "ffn.net.0.proj",
    "mlp/fc2": "ffn.net.2",
}
QKV = ("attn1.to_q", "attn1.to_k", "attn1.to_v")
#: path of a vector of ours below `blocks` -> its name
VECTORS = {
    "attention/norm_q/gain": "attn1.norm_q.weight",
    "attention/norm_k/gain": "attn1.norm_k.weight",
    "cross_attention/norm_q/gain": "attn2.norm_q.weight",
    "cross_attention/norm_k/gain": "attn2.norm_k.weight",
    "norm_cross/gain": "norm2.weight",
    "norm_cross/shift": "norm2.bias",
}


@dataclass(frozen=True)
class Sizes:
    """What the tensors do not tell; None where that is the published.

    Attributes:
      num_heads: of a block; or numbers by width.
      latent: frames, height and width.
      length: rows of a text.
    """

    num_heads: Heads = None
    latent: tuple[int, int, int] = LATENT
    length: int = LENGTH


def read_wan(state: StateDict, sizes: Sizes = Sizes()) -> tuple[DiT, Params]:
    """A state dict of either layout -> the model it describes and its plain parameters.

    Tensors are read one by one: besides the parameters no more than a layer is held.

    Args:
      state: arrays by name, of any float type.

    Raises:
      UserError: missing, extra or misshapen keys (all that are missing or extra named), or another Wan.
    """
    state = in_diffusers(state)
    for name in state:
        if does := next((OTHERS[part] for part in name.split(".") if part in OTHERS), None):
            raise UserError(f"{name} is of a Wan that {does}, which is not read; a Wan 2.1 of texts would do")
    model = _model_of(state, sizes)
    shapes = _shapes(model)
    if problems := misnamed(shapes, state):
        raise UserError(f"not a {CLASS} state dict: {told(problems)}")

    def take(name: str) -> np.ndarray:
        array = float32(state[name])
        if array.shape != shapes[name]:
            said = f"{name} is {list(array.shape)} instead of {list(shapes[name])}"
            raise UserError(f"not a {CLASS} state dict: {said}")
        return array

    def leaf(kind: str, name: str) -> np.ndarray:
        return take(f"{name}.weight").T if kind == "kernel" else take(f"{name}.bias")

    def linear(name: str) -> Params:
        return {kind: leaf(kind, name) for kind in ("kernel", "bias")}

    def layers(*names: str) -> Params:
        """Of all blocks; of several names one after another."""

        def of_block(kind: str, i: int) -> np.ndarray:
            return np.concatenate([leaf(kind, f"blocks.{i}.{name}") for name in names], -1)

        return {kind: stacked(partial(of_block, kind), model.depth) for kind in ("kernel", "bias")}

    tables = stacked(lambda i: take(f"blocks.{i}.{TABLE}")[0], model.depth)
    params: Params = {"blocks": {"modulation": {"table": tables}}}
    for path, name in OUTSIDE.items():
        put(params, path, linear(name))
    put(params["blocks"], "attention/qkv", layers(*QKV))
    for path, name in BLOCK.items():
        put(params["blocks"], path, layers(name))
    for path, name in VECTORS.items():
        put(params["blocks"], path, stacked(lambda i, name=name: take(f"blocks.{i}.{name}"), model.depth))
    last = linear("proj_out")
    return model, params | {
        "embed": {
            "kernel": take("patch_embedding.weight").transpose(2, 3, 4, 1, 0),
            "bias": take("patch_embedding.bias"),
        },
        "final": {"modulation": {"table": take(TABLE)[0]}},
        "deembed": {
            "kernel": last["kernel"].reshape(model.width, *model.patch, -1),
            "bias": last["bias"].reshape(*model.patch, -1),
        },
    }


def write_wan(model: DiT, params: Params, repository: bool = False) -> dict[str, np.ndarray]:
    """Plain parameters of the powerful mode -> a state dict of diffusers, float32; the inverse of `read_wan`.

    Leaves of a FlexiDiT mode are folded into those of the layout (`models.fold`); what stands for no text is left out.
    Arrays are views of the parameters: who writes shards holds one shard beside these.

    Args:
      repository: the names of the Wan repository instead.

    Raises:
      UserError: a model that the layout cannot hold.
    """
    if model.patch != model.base_patch:
        raise UserError(
            f"no published layout holds mode {short_patch_name(model.patch)} of a Wan, whose programs place tokens by"
            " their number; save() holds all modes"
        )
    if model.modulation != "single" or model.positions != "rope" or not model.cross_norm or model.qk_norm is None:
        raise UserError(
            "the published Wan layout holds models with rope, norms of queries and keys, and a text; save()"
            " holds others"
        )
    params, plain = folded(params), partial(float32, copy=False)
    state = {
        "patch_embedding.weight": plain(params["embed"]["kernel"]).transpose(4, 3, 0, 1, 2),
        "patch_embedding.bias": plain(params["embed"]["bias"]),
        TABLE: plain(params["final"]["modulation"]["table"])[None],
        "proj_out.weight": plain(params["deembed"]["kernel"]).reshape(model.width, -1).T,
        "proj_out.bias": plain(params["deembed"]["bias"]).reshape(-1),
    }

    def linear(name: str, kernel: Array, bias: Array) -> dict[str, np.ndarray]:
        return {f"{name}.weight": plain(kernel).T, f"{name}.bias": plain(bias)}

    for path, name in OUTSIDE.items():
        state |= linear(name, **at_path(params, path))
    blocks = params["blocks"]
    for i in range(model.depth):
        state[f"blocks.{i}.{TABLE}"] = plain(blocks["modulation"]["table"][i])[None]
        qkv = {leaf: np.split(plain(array[i]), 3, -1) for leaf, array in blocks["attention"]["qkv"].items()}
        for part, name in enumerate(QKV):
            state |= linear(f"blocks.{i}.{name}", qkv["kernel"][part], qkv["bias"][part])
        for path, name in BLOCK.items():
            layer = at_path(blocks, path)
            state |= linear(f"blocks.{i}.{name}", layer["kernel"][i], layer["bias"][i])
        for path, name in VECTORS.items():
            state[f"blocks.{i}.{name}"] = plain(at_path(blocks, path)[i])
    return {of_repository(name): array for name, array in state.items()} if repository else state


def _model_of(state: StateDict, sizes: Sizes) -> DiT:
    """The model a state dict describes, from the few tensors that tell and what is said."""
    telling = {
        "patch_embedding.weight": 5,
        "condition_embedder.time_embedder.linear_1.weight": 2,
        "condition_embedder.text_embedder.linear_1.weight": 2,
        "blocks.0.ffn.net.0.proj.weight": 2,
        "proj_out.weight": 2,
    }
    problems = misaxed(telling, state)
    if problems:
        raise UserError(f"not a {CLASS} state dict: {told(problems)}")
    width, channels, *patch = state["patch_embedding.weight"].shape
    out = state["proj_out.weight"].shape[0] // max(1, int(np.prod(patch)))
    if out != channels:
        raise UserError(
            f"it reads {channels} channels and writes {out}, as a Wan that makes clips of images does, which is not"
            " read; a Wan 2.1 of texts would do"
        )
    if channels == OF_5B:
        raise UserError(
            f"it has latents of {channels} channels, as the Wan 2.2 of 5B has, whose tokens have times of their own,"
            " which is not read; a Wan 2.1 of texts would do"
        )
    return build_dit(
        latent=(*sizes.latent, channels),
        conditioner={
            "name": "text",
            "features": state["condition_embedder.text_embedder.linear_1.weight"].shape[1],
            "length": sizes.length,
            "mask": False,
        },
        patch=tuple(patch),
        width=width,
        depth=sum(bool(re.fullmatch(rf"blocks\.\d+\.{TABLE}", key)) for key in state),
        num_heads=heads_as_wide(width, sizes.num_heads, HEAD, "Wan"),
        mlp_ratio=state["blocks.0.ffn.net.0.proj.weight"].shape[0] / width,
        learn_variance=False,
        modulation="single",
        positions="rope",
        qk_norm="rms",
        cross_norm=True,
        time_features=state["condition_embedder.time_embedder.linear_1.weight"].shape[1],
    )


def _shapes(model: DiT) -> dict[str, tuple[int, ...]]:
    """Every key of the layout with its shape, for a model."""
    d, hidden, (*_, channels) = model.width, model.hidden, model.latent
    out = channels * int(np.prod(model.patch))
    linears = {
        "condition_embedder.time_embedder.linear_1": (d, model.time_features),
        "condition_embedder.time_embedder.linear_2": (d, d),
        "condition_embedder.time_proj": (6 * d, d),
        "condition_embedder.text_embedder.linear_1": (d, model.conditioner.features),
        "condition_embedder.text_embedder.linear_2": (d, d),
        "proj_out": (out, d),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "patch_embedding.weight": (d, channels, *model.patch),
        "patch_embedding.bias": (d,),
        TABLE: (1, 2, d),
    }
    of_block = dict.fromkeys([*QKV, *BLOCK.values()], (d, d))
    of_block |= {BLOCK["mlp/fc1"]: (hidden, d), BLOCK["mlp/fc2"]: (d, hidden)}
    for i in range(model.depth):
        shapes[f"blocks.{i}.{TABLE}"] = (1, 6, d)
        shapes |= {f"blocks.{i}.{name}": (d,) for name in VECTORS.values()}
        linears |= {f"blocks.{i}.{name}": shape for name, shape in of_block.items()}
    for name, (rows, columns) in linears.items():
        shapes |= {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}
    return shapes
