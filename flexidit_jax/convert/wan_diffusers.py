"""The folder of a Wan 2.1's transformer, of diffusers or of the Wan repository: its `config.json` and weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import json_object
from flexidit_jax.common.types import Params
from flexidit_jax.convert.diffusers_layout import check_class, weights_in, write_transformer
from flexidit_jax.convert.dit_layout import StateDict
from flexidit_jax.convert.wan_layout import Sizes, read_wan
from flexidit_jax.convert.wan_names import CLASS, NETWORKS, in_diffusers
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
#: the class of the Wan repository's own config, and a key of that -> of diffusers'
OF_REPOSITORY = "WanModel"
KEYS = {
    "num_heads": "num_attention_heads",
    "in_dim": "in_channels",
    "out_dim": "out_channels",
    **{key: key for key in ("eps", "ffn_dim", "freq_dim", "num_layers", "text_dim")},
}


def is_wan(config: Mapping[str, Any]) -> bool:
    """Whether a config is that of a Wan's transformer."""
    return config.get("_class_name") in (CLASS, OF_REPOSITORY)


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
    return read_named(weights_in(root, NETWORKS, which), json_object(file), str(file), sizes)


def read_named(state: Mapping[str, Any], config: Mapping[str, Any], where: str, sizes: Sizes) -> tuple[DiT, Params]:
    """A state dict and its config -> the model and its plain parameters.

    Raises:
      UserError: keys that are missing, unexpected or misshapen, or a config of another model; `where` it is, is said.
    """
    check_class(config.get("_class_name"), where)
    if config["_class_name"] == OF_REPOSITORY:
        if (kind := config.get("model_type", "t2v")) != "t2v":
            raise UserError(f"{where} says model_type is {kind!r}, not 't2v'; a Wan 2.1 of texts would do")
        if type(length := config.get("text_len", sizes.length)) is not int or length < 1:
            raise UserError(f"{where} must say text_len as a positive whole number, got {length!r}")
        sizes = replace(sizes, length=length)
        config = {theirs: config[ours] for ours, theirs in KEYS.items() if ours in config}
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


def write_folder(folder: Path, model: DiT, state: StateDict, overwrite: bool = False) -> None:
    """A state dict of `wan_layout.write_wan`, by whichever names -> a folder that diffusers reads.

    Raises:
      UserError: unless `overwrite`, another model that is there.
    """
    write_transformer(folder, config_of(model), in_diffusers(state), overwrite)


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
