"""diffusers' names and `config.json` of a PixArt <-> the published state dict.

Facts of the layout: query, key and value are separate linears; positions are not stored; what features stand for no
text is in older folders alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import Tensors, json_object, misnamed, told
from flexidit_jax.common.types import Params
from flexidit_jax.common.weights import Network
from flexidit_jax.convert.diffusers_layout import LARGEST, weights_in, write_transformer
from flexidit_jax.convert.dit_layout import StateDict
from flexidit_jax.convert.pixart_layout import NULL, read_pixart
from flexidit_jax.convert.said import Said
from flexidit_jax.models.dit import DiT

CLASS = "PixArtTransformer2DModel"
#: what tells it from others of the class that older versions gave it
NORM = "ada_norm_single"
NETWORK = Network(
    "PixArt",
    "adaln_single.linear.weight",
    ("pos_embed", "adaln_single", "caption_projection", "transformer_blocks", "proj_out"),
)

EMBEDDER = "adaln_single.emb"
#: published name -> diffusers name, outside blocks
OUTSIDE = {
    "x_embedder.proj": "pos_embed.proj",
    "t_embedder.mlp.0": f"{EMBEDDER}.timestep_embedder.linear_1",
    "t_embedder.mlp.2": f"{EMBEDDER}.timestep_embedder.linear_2",
    "t_block.1": "adaln_single.linear",
    "y_embedder.y_proj.fc1": "caption_projection.linear_1",
    "y_embedder.y_proj.fc2": "caption_projection.linear_2",
    "final_layer.linear": "proj_out",
}
#: the same where there are micro-conditions
MICRO = {
    "csize_embedder.mlp.0": f"{EMBEDDER}.resolution_embedder.linear_1",
    "csize_embedder.mlp.2": f"{EMBEDDER}.resolution_embedder.linear_2",
    "ar_embedder.mlp.0": f"{EMBEDDER}.aspect_ratio_embedder.linear_1",
    "ar_embedder.mlp.2": f"{EMBEDDER}.aspect_ratio_embedder.linear_2",
}
#: below `blocks.<i>` and `transformer_blocks.<i>`: several lie one after another in the published one
BLOCK = {
    "attn.qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"),
    "attn.proj": ("attn1.to_out.0",),
    "cross_attn.q_linear": ("attn2.to_q",),
    "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
    "cross_attn.proj": ("attn2.to_out.0",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
}
EMPTY_TEXT = "caption_projection.y_embedding"


def is_pixart(config: Mapping[str, Any]) -> bool:
    """Whether a `config.json` is that of a PixArt."""
    return config.get("_class_name") == CLASS or config.get("norm_type") == NORM


def read_folder(root: Path, which: str | None, said: Said) -> tuple[DiT, Params]:
    """The folder of a transformer, sharded or not -> the model and its plain parameters.

    Args:
      root: it, not that of a pipeline.
      which: see `common.weights.open_weights`.
      said: `length` and what is to stand for no text; the config tells all else.

    Raises:
      UserError: another transformer; missing, unexpected or unreadable files or keys.
    """
    file = root / "config.json"
    return read_named(weights_in(root, NETWORK, which), json_object(file), str(file), said)


def read_named(state: StateDict, config: Mapping[str, Any], where: str, said: Said) -> tuple[DiT, Params]:
    """A state dict of diffusers and its config -> the model and its plain parameters.

    Raises:
      UserError: keys that are missing, unexpected or misshapen, or a config of another model; `where` it is, is said.
    """
    heads, side, scale = (config.get(key) for key in ("num_attention_heads", "sample_size", "interpolation_scale"))
    for key, value in (("num_attention_heads", heads), ("sample_size", side)):
        if type(value) is not int or not 0 < value <= LARGEST:
            raise UserError(f"{where} must say {key} as a whole number in 1..{LARGEST}, got {value!r}")
    if scale is None:
        scale = max(side // 64, 1)
    if type(scale) not in (int, float) or not 0 < scale <= LARGEST:
        raise UserError(f"{where} must say interpolation_scale as a positive number, got {scale!r}")
    try:
        read = replace(said, num_heads=heads, input_size=side, interpolation_scale=scale)
        model, params = read_pixart(published(state), read)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    check_config(config, model, where)
    return model, params


def write_folder(folder: Path, model: DiT, state: StateDict, overwrite: bool = False) -> None:
    """A published state dict -> a folder that diffusers reads; the inverse of `read_folder`.

    Raises:
      UserError: positions diffusers would not compute (a weak mode of a FlexiDiT), or, unless `overwrite`, another
        model that is there.
    """
    if model.patch != model.base_patch:
        raise UserError(
            "diffusers computes positions itself and cannot hold those of a larger patch; write .safetensors, whose"
            " pos_embed must be used"
        )
    config, tensors = config_of(model), to_diffusers(model, state)
    write_transformer(folder, config, tensors, overwrite)


def published(state: StateDict) -> StateDict:
    """A state dict of diffusers by its published names; a tensor is read when it is asked for.

    Raises:
      UserError: missing or unexpected keys, all named.
    """
    depth = sum(bool(re.fullmatch(r"transformer_blocks\.\d+\.scale_shift_table", key)) for key in state)
    micro = any(key.startswith(f"{EMBEDDER}.resolution_embedder.") for key in state)
    names = _names(depth, micro, EMPTY_TEXT in state)
    wanted = {key for keys in names.values() for key in keys}
    if problems := misnamed(sorted(wanted), state):
        raise UserError(f"not a {CLASS}: {told(problems)}")
    return Tensors({name: partial(_joined, state, keys) for name, keys in names.items()})


def to_diffusers(model: DiT, state: StateDict) -> dict[str, np.ndarray]:
    """The inverse of `published`, without `pos_embed`."""
    tensors: dict[str, np.ndarray] = {}
    for name, keys in _names(model.depth, model.conditioner.resolution is not None, NULL in state).items():
        tensors |= dict(zip(keys, np.split(state[name], len(keys)), strict=True))
    return tensors


def config_of(model: DiT) -> dict[str, Any]:
    """The `config.json` of a model."""
    channels = model.latent[-1]
    return {
        "_class_name": CLASS,
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": model.width // model.num_heads,
        "attention_type": "default",
        "caption_channels": model.conditioner.features,
        "cross_attention_dim": model.width,
        "dropout": 0.0,
        "in_channels": channels,
        "interpolation_scale": model.latent[1] / model.patch[1] / model.span,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "norm_num_groups": 32,
        "norm_type": NORM,
        "num_attention_heads": model.num_heads,
        "num_embeds_ada_norm": 1000,
        "num_layers": model.depth,
        "out_channels": channels * (2 if model.learn_variance else 1),
        "patch_size": model.patch[1],
        "sample_size": model.latent[1],
        "upcast_attention": False,
        "use_additional_conditions": model.conditioner.resolution is not None,
    }


def check_config(config: Mapping[str, Any], model: DiT, where: str) -> None:
    """Refuses a config that says another network than the tensors make, or than a PixArt is.

    Null says nothing. Nor do keys that begin with `_`, nor whether there are micro-conditions, which published files
    have wrong.

    Raises:
      UserError: the key, and both values.
    """
    wanted = config_of(model)
    for key, said in config.items():
        if key.startswith("_") or said is None or key == "use_additional_conditions":
            continue
        if key not in wanted and said:
            raise UserError(f"{where} says {key} is {said!r}, which no PixArt that is read has")
        if key in wanted and said != wanted[key]:
            raise UserError(f"{where} says {key} is {said!r}, but the weights are of a PixArt with {wanted[key]!r}")


def _joined(state: StateDict, keys: Sequence[str]) -> np.ndarray:
    """Tensors one after another, which are alike."""
    first, *others = parts = [state[key] for key in keys]
    for key, part in zip(keys[1:], others, strict=True):
        if part.shape != first.shape:
            raise UserError(f"{keys[0]} is {list(first.shape)}, but {key} {list(part.shape)}")
    return np.concatenate(parts) if others else first


def _names(depth: int, micro: bool, null: bool) -> dict[str, tuple[str, ...]]:
    """Published name -> the diffusers names that hold it, one after another; without `pos_embed`."""
    linears = {ours: (theirs,) for ours, theirs in (OUTSIDE | MICRO if micro else OUTSIDE).items()}
    names: dict[str, tuple[str, ...]] = {"final_layer.scale_shift_table": ("scale_shift_table",)}
    for i in range(depth):
        block = f"transformer_blocks.{i}"
        names[f"blocks.{i}.scale_shift_table"] = (f"{block}.scale_shift_table",)
        linears |= {f"blocks.{i}.{ours}": tuple(f"{block}.{key}" for key in keys) for ours, keys in BLOCK.items()}
    for ours, keys in linears.items():
        names |= {f"{ours}.{leaf}": tuple(f"{key}.{leaf}" for key in keys) for leaf in ("weight", "bias")}
    return names | ({NULL: (EMPTY_TEXT,)} if null else {})
