"""LoRA as the PEFT library keeps it, by the names of a transformer of diffusers <-> adapters of a mode.

Facts of the layout: `adapter_config.json` says the rank r and alpha, `adapter_model.safetensors` holds A and B of every
layer (`convert.lora`). What else is a mode's own lies beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import written_aside
from flexidit_jax.common.tensor_files import json_object, read_safetensors, write_safetensors
from flexidit_jax.common.trees import merge
from flexidit_jax.common.types import Params, Patch
from flexidit_jax.convert.lora import Scale, lora_of, read_lora
from flexidit_jax.convert.replaced import check_config, check_tensors

FILES = CONFIG, WEIGHTS, OWN = "adapter_config.json", "adapter_model.safetensors", "mode.safetensors"
PREFIX = "base_model.model."
#: of a config, what would be another formula
PLAIN = {"peft_type": "LORA", "bias": "none", "use_dora": False, "fan_in_fan_out": False, "modules_to_save": None}


def is_peft(folder: Path) -> bool:
    """Whether a folder is one of PEFT."""
    return (folder / CONFIG).is_file()


def write_peft(folder: Path, params: Params, patch: Patch, overwrite: bool = False) -> None:
    """The adapters of a mode -> a folder that PEFT reads.

    Args:
      folder: made if need be.
      params: the stored tree (`models.flexify`).
      patch: the mode.
      overwrite: replace another one that is there.

    Raises:
      UserError: a mode without adapters, or another folder that is there.
    """
    lora = lora_of(params, patch)
    tensors: dict[str, np.ndarray] = {}
    for name, (a, b) in lora.pairs.items():
        tensors |= {f"{PREFIX}{name}.lora_A.weight": a, f"{PREFIX}{name}.lora_B.weight": b}
    config = {
        **PLAIN,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": lora.rank,
        "lora_dropout": 0.0,
        "r": lora.rank,
        "target_modules": list(lora.layers.adapted),
        "task_type": None,
        "use_rslora": False,
    }
    if not overwrite:
        check_config(folder / CONFIG, config)
        check_tensors(folder / WEIGHTS, tensors, lambda file: read_safetensors(file)[0])
        check_tensors(folder / OWN, lora.own | lora.words, lambda file: merge(*read_safetensors(file)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / WEIGHTS, tensors, {"format": "pt"})
        write_safetensors(folder / OWN, lora.own, lora.words)
        with written_aside(folder / CONFIG) as file:
            file.write_text(json.dumps(config, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror})") from None


def read_peft(folder: Path, base: Params) -> Params:
    """A folder of PEFT -> the stored tree with its mode, or with the pre-trained layers that it changes.

    Args:
      folder: see `is_peft`.
      base: the stored tree that it was made for.

    Raises:
      UserError: another kind of adapter, layers that the model does not have, or a mode of another base.
    """
    where = folder / CONFIG
    scale = scale_of(json_object(where), str(where))
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} holds no {WEIGHTS}; save the adapters as safetensors")
    return read_lora(folder / WEIGHTS, folder / OWN, base, scale)


def scale_of(config: Mapping[str, Any], where: str) -> Scale:
    """What B A is multiplied by, by a config of PEFT.

    Raises:
      UserError: another formula.
    """
    for key, wanted in PLAIN.items():
        if (said := config.get(key, wanted)) != wanted and said:
            raise UserError(f"{where} says {key} is {said!r}, and {wanted!r} alone is read")
    for key in ("alpha_pattern", "layer_replication", "lora_bias"):
        if config.get(key):
            raise UserError(f"{where} says {key}, which is not read; adapters of one alpha would do")
    alpha = config.get("lora_alpha")
    if isinstance(alpha, bool) or not isinstance(alpha, (int, float)):
        raise UserError(f"{where} must say lora_alpha as a number, got {alpha!r}")
    return lambda rank, _: np.float32(alpha / (rank**0.5 if config.get("use_rslora") else rank))
