"""diffusers' folder of a Wan 2.1: its `config.json`, and what the rest of its pipeline says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import json_object
from flexidit_jax.common.types import Params
from flexidit_jax.convert.diffusers_layout import weights_in, write_transformer
from flexidit_jax.convert.wan_layout import CLASS, NETWORKS, Sizes, read_wan
from flexidit_jax.models.dit import DiT

#: keys of a config that a Wan of texts to clips has so, and that older files leave out
EXPECTED = {
    "cross_attn_norm": True,
    "qk_norm": "rms_norm_across_heads",
    "eps": 1e-6,
    "image_dim": None,
    "added_kv_proj_dim": None,
    "pos_embed_seq_len": None,
}
#: where no scheduler says a shift
SHIFT = 3.0


def is_wan(config: Mapping[str, Any]) -> bool:
    """Whether a config is that of a Wan's transformer."""
    return config.get("_class_name") == CLASS


def read_folder(root: Path, which: str | None, sizes: Sizes) -> tuple[DiT, Params]:
    """The folder of a transformer, sharded or not -> the model and its plain parameters.

    Args:
      root: it, not that of a pipeline.
      which: see `common.weights.open_weights`.
      sizes: the config tells the heads.

    Raises:
      UserError: another transformer; missing, unexpected or unreadable files or keys.
    """
    file = root / "config.json"
    return read_named(weights_in(root, NETWORKS[0], which), json_object(file), str(file), sizes)


def read_named(state: Mapping[str, Any], config: Mapping[str, Any], where: str, sizes: Sizes) -> tuple[DiT, Params]:
    """A state dict and its config -> the model and its plain parameters.

    Raises:
      UserError: keys that are missing, unexpected or misshapen, or a config of another model; `where` it is, is said.
    """
    for key, value in EXPECTED.items():
        if config.get(key, value) != value:
            raise UserError(f"{where} says {key} is {config[key]!r}, not {value!r}; a Wan 2.1 of texts would do")
    if type(heads := config.get("num_attention_heads")) is int:
        sizes = replace(sizes, num_heads=heads)
    try:
        model, params = read_wan(state, sizes)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    for key, value in config_of(model).items():
        if not key.startswith("_") and config.get(key, value) != value:
            raise UserError(f"{where} says {key} is {config[key]!r}, but the weights are of a Wan with {value!r}")
    return model, params


def beside(pipeline: Path, name: str) -> dict[str, Any]:
    """The sections of the other parts of a pipeline, None where it does not have one.

    Args:
      pipeline: its folder, which of a pipeline at the hub holds no more than was fetched.
      name: what it is called: its path, or `hf:owner/model@commit`.

    Raises:
      UserError: two transformers, as Wan 2.2 has them.
    """
    if (pipeline / "transformer_2").is_dir():
        raise UserError(f"{pipeline} is a Wan 2.2, which has two transformers; a Wan 2.1 would do")
    scheduler = pipeline / "scheduler" / "scheduler_config.json"
    shift = json_object(scheduler).get("flow_shift", SHIFT) if scheduler.is_file() else SHIFT
    return {
        "assumed": {"name": "flow", "shift": shift},
        "codec": {"name": "wan_vae", "path": str(pipeline)} if (pipeline / "vae").is_dir() else None,
        "text": {"name": "umt5", "path": name} if (pipeline / "text_encoder").is_dir() else None,
    }


def write_folder(folder: Path, model: DiT, state: Mapping[str, Any], overwrite: bool = False) -> None:
    """A state dict of `wan_layout.write_wan` -> a folder that diffusers reads.

    Raises:
      UserError: a mode of a larger patch, or, unless `overwrite`, another model that is there.
    """
    if model.patch != model.base_patch:
        raise UserError(
            "diffusers computes positions itself and cannot hold those of a larger patch; save() holds all modes"
        )
    config = config_of(model)
    write_transformer(folder, config, state, overwrite)


def config_of(model: DiT) -> dict[str, Any]:
    """The `config.json` of a model."""
    return {
        "_class_name": CLASS,
        **EXPECTED,
        "attention_head_dim": model.width // model.num_heads,
        "ffn_dim": model.hidden,
        "freq_dim": model.time_features,
        "in_channels": model.latent[-1],
        "num_attention_heads": model.num_heads,
        "num_layers": model.depth,
        "out_channels": model.latent[-1],
        "patch_size": list(model.patch),
        "rope_max_seq_len": 1024,
        "text_dim": model.conditioner.features,
    }
