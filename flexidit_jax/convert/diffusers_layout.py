"""diffusers' `DiTTransformer2DModel` folder <-> the published DiT state dict.

Facts of the layout: query, key and value are separate linears, the timestep and label embedders are
repeated in every block, the first final linear is the modulation, positions are not stored.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import written_aside
from flexidit_jax.common.tensor_files import Tensors, json_object, told
from flexidit_jax.common.weights import (
    Network,
    open_shards,
    open_weights,
    weight_files,
    write_weights,
    written_weights,
)
from flexidit_jax.convert.replaced import check_config, check_tensors
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.position import position_embedding

CLASS = "DiTTransformer2DModel"
#: what older versions called it, and what told it from others that they called so
OLDER_CLASS, NORM = "Transformer2DModel", "ada_norm_zero"
#: of all transformers that are read; those of a PixArt and a Wan are read by files of their own
CLASSES = (CLASS, OLDER_CLASS, "PixArtTransformer2DModel", "WanTransformer3DModel", "WanModel")
STEM = "diffusion_pytorch_model"
#: of a latent, far above any that is trained on
LARGEST = 4096
SIZES = ("num_attention_heads", "attention_head_dim", "sample_size", "patch_size", "num_layers")
NETWORK = Network(CLASS, "pos_embed.proj.weight", ("pos_embed", "transformer_blocks", "proj_out_1", "proj_out_2"))
EMBEDDER = "transformer_blocks.{i}.norm1.emb"

#: published name -> diffusers name, outside blocks
OUTSIDE = {
    "x_embedder.proj": "pos_embed.proj",
    "final_layer.adaLN_modulation.1": "proj_out_1",
    "final_layer.linear": "proj_out_2",
}
#: the same below `blocks.<i>` and `transformer_blocks.<i>`; qkv is split
BLOCK = {
    "adaLN_modulation.1": "norm1.linear",
    "attn.proj": "attn1.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
}
#: below every block's embedder
EMBEDDERS = {
    "t_embedder.mlp.0": "timestep_embedder.linear_1",
    "t_embedder.mlp.2": "timestep_embedder.linear_2",
}
TABLE = ("y_embedder.embedding_table.weight", "class_embedder.embedding_table.weight")


def is_diffusers_folder(folder: Path) -> bool:
    """Whether a folder (or its `transformer` subfolder) is a diffusers transformer, of whatever kind."""
    return root_of(folder) is not None


def read_folder(folder: Path, which: str | None = None) -> tuple[dict[str, np.ndarray], int]:
    """A diffusers folder, sharded or not, of any version and variant -> a published state dict and its heads.

    Args:
      folder: it, or that of a whole pipeline.
      which: see `common.weights.open_weights`.

    Raises:
      UserError: another transformer; missing, unexpected or unreadable files or keys.
    """
    root = root_of(folder)
    if root is None:
        raise UserError(f"{folder} has no config.json of a {CLASS}")
    config = json_object(root / "config.json")
    norm = config.get("norm_type")
    if config["_class_name"] == OLDER_CLASS and norm != NORM:
        raise UserError(f"{root} is a {OLDER_CLASS} with norm_type {norm!r}, and no DiT, which has {NORM!r}")
    state = weights_in(root, NETWORK, which)
    heads, head, side, patch, depth = (config.get(key) for key in SIZES)
    for key in SIZES:
        if type(config.get(key)) is not int or config[key] < 1:
            raise UserError(
                f"{root / 'config.json'} must say {key} as a positive whole number, got {config.get(key)!r}"
            )
    blocks = {match[1] for key in state if (match := re.match(r"transformer_blocks\.(\d+)\.", key))}
    if len(blocks) != depth or side > LARGEST:
        raise UserError(
            f"{root / 'config.json'} says num_layers={depth} and sample_size={side}; there are {len(blocks)} blocks,"
            f" and {LARGEST} is the largest size"
        )
    names = _names(depth)
    problems = [f"missing {key}" for keys in names.values() for key in keys if key not in state]
    wanted = {key for keys in names.values() for key in keys}
    problems += [f"unexpected {key}" for key in state if key not in wanted]
    for name, keys in names.items() if not problems else ():
        first, *others = (state[key] for key in keys)
        alike = (lambda array: array.shape) if ".qkv." in name else np.asarray  # the others are copies
        if not all(np.array_equal(alike(first), alike(other)) for other in others):
            problems.append(f"{keys[0]} and {keys[-1]} are not alike")
    if problems:
        raise UserError(f"{root} is not a {CLASS}: {told(problems)}")
    published = {
        name: np.concatenate([state[key] for key in keys]) if ".qkv." in name else state[keys[0]]
        for name, keys in names.items()
    }
    _check(config, published, root)
    grid = (1, patch, patch)
    published["pos_embed"] = position_embedding((1, side, side), grid, grid, heads * head)[None]
    return published, heads


def _check(config: dict[str, Any], published: Mapping[str, np.ndarray], root: Path) -> None:
    """Refuses a config that says another network than the tensors make, or than a DiT is."""
    kernel, last = published["x_embedder.proj.weight"], published["final_layer.linear.weight"]
    if kernel.ndim != 4 or last.ndim != 2:
        return  # which the published layout refuses
    is_so = {
        "patch_size": kernel.shape[-1],
        "in_channels": kernel.shape[1],
        "out_channels": last.shape[0] // kernel.shape[-1] ** 2,
        "num_embeds_ada_norm": len(published[TABLE[0]]) - 1,
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "norm_elementwise_affine": False,
        "norm_type": NORM,
    }
    for key, value in is_so.items():
        if (said := config.get(key)) is not None and said != value:
            raise UserError(
                f"{root / 'config.json'} says {key} is {said!r}, but the weights are of a DiT with {value!r}"
            )


def write_folder(folder: Path, model: DiT, state: Mapping[str, np.ndarray], overwrite: bool = False) -> None:
    """A published state dict -> a folder diffusers reads; the inverse of `read_folder`.

    Raises:
      UserError: positions diffusers would not compute (a weak mode of a FlexiDiT), or, unless `overwrite`, another
        model that is there.
    """
    if model.patch != model.base_patch:
        raise UserError(
            "diffusers computes positions itself and cannot hold those of a larger patch; write .safetensors"
        )
    tensors = {}
    for name, keys in _names(model.depth).items():
        parts = np.split(state[name], 3) if ".qkv." in name else [state[name]] * len(keys)
        tensors |= dict(zip(keys, parts, strict=True))
    channels = model.latent[-1]
    config = {
        "_class_name": CLASS,
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": model.width // model.num_heads,
        "in_channels": channels,
        "norm_elementwise_affine": False,
        "norm_num_groups": 32,
        "norm_type": "ada_norm_zero",
        "num_attention_heads": model.num_heads,
        "num_embeds_ada_norm": model.conditioner.classes,
        "num_layers": model.depth,
        "out_channels": channels * (2 if model.learn_variance else 1),
        "patch_size": model.patch[1],
        "sample_size": model.latent[1],
    }
    write_transformer(folder, config, tensors, overwrite)


def write_transformer(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], overwrite: bool
) -> None:
    """Writes a transformer's own folder, a large one in shards.

    Raises:
      UserError: unless `overwrite`, another model that is there.
    """
    if not overwrite:
        check_config(folder / "config.json", config)
        if there := written_weights(folder, STEM):
            check_tensors(there[0], tensors, lambda _: Tensors(open_shards(there)[0]))
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder, STEM, tensors, {"format": "pt"})
    with written_aside(folder / "config.json") as file:
        file.write_text(json.dumps(config, indent=2) + "\n")


def _names(depth: int) -> dict[str, list[str]]:
    """Published name -> the diffusers names that hold it: three for qkv, one per block for embedders."""
    names: dict[str, list[str]] = {}
    for leaf in ("weight", "bias"):
        for ours, theirs in OUTSIDE.items():
            names[f"{ours}.{leaf}"] = [f"{theirs}.{leaf}"]
        for ours, theirs in EMBEDDERS.items():
            names[f"{ours}.{leaf}"] = [f"{EMBEDDER.format(i=i)}.{theirs}.{leaf}" for i in range(depth)]
        for i in range(depth):
            block = f"transformer_blocks.{i}"
            for ours, theirs in BLOCK.items():
                names[f"blocks.{i}.{ours}.{leaf}"] = [f"{block}.{theirs}.{leaf}"]
            names[f"blocks.{i}.attn.qkv.{leaf}"] = [f"{block}.attn1.to_{part}.{leaf}" for part in "qkv"]
    names[TABLE[0]] = [f"{EMBEDDER.format(i=i)}.{TABLE[1]}" for i in range(depth)]
    return names


def weights_in(root: Path, network: Network | Sequence[Network], which: str | None) -> Tensors:
    """The tensors of a transformer's own folder, unread; for the arguments see `common.weights.open_weights`.

    Raises:
      UserError: none are there, or they cannot be read.
    """
    files = weight_files(root, STEM)
    if not files:
        raise UserError(
            f"{root} holds no weights; put {STEM}.safetensors there (or .bin, or their shards with the index)"
        )
    return Tensors(open_weights(files, network, which)[0])


def root_of(folder: Path) -> Path | None:
    """The folder of a diffusers transformer: this one, or its `transformer`; None where neither is.

    Raises:
      UserError: that of another network.
    """
    for root in (folder, folder / "transformer"):
        config = root / "config.json"
        if config.is_file() and (kind := json_object(config).get("_class_name")) is not None:
            check_class(kind, str(root))
            return root
    return None


def check_class(kind: Any, where: str) -> None:
    """Refuses a network of diffusers that is not read, by the class that its config says.

    Raises:
      UserError: so it is.
    """
    if kind not in CLASSES:
        raise UserError(f"{where} is a {kind}, which is not read; {', '.join(CLASSES)} are")
