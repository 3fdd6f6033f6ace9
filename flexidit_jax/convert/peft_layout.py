"""LoRA as the PEFT library keeps it, by the names of a transformer of diffusers <-> adapters of a mode.

Facts of the layout: `adapter_config.json` says the rank r and alpha, `adapter_model.safetensors` holds A [r, in] and
B [out, r] of every layer, which becomes `W + (alpha / r) B A`. Query, key and value are separate linears: those of a
mode share their A. What else is a mode's own (embedding, de-embedding, norms) no LoRA can hold: a file beside it does,
without which a folder is of the pre-trained mode, into which it is merged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import written_aside
from flexidit_jax.common.tensor_files import json_object, read_safetensors, told, write_safetensors
from flexidit_jax.common.trees import fingerprint, flatten, merge, unflatten
from flexidit_jax.common.types import Params, Patch, as_patch, patch_name, short_patch_name
from flexidit_jax.convert import pixart_diffusers, pixart_layout
from flexidit_jax.convert.replaced import check_config, check_tensors
from flexidit_jax.models.adapters import rank_of

FILES = CONFIG, WEIGHTS, OWN = "adapter_config.json", "adapter_model.safetensors", "mode.safetensors"
PREFIX = "base_model.model."
#: below a block of diffusers -> below `blocks`, and which of how many linears there, one after another
BLOCK = {
    "attn1.to_q": ("attention/qkv", 0, 3),
    "attn1.to_k": ("attention/qkv", 1, 3),
    "attn1.to_v": ("attention/qkv", 2, 3),
    "attn1.to_out.0": ("attention/proj", 0, 1),
    "ff.net.0.proj": ("mlp/fc1", 0, 1),
    "ff.net.2": ("mlp/fc2", 0, 1),
}
#: the same of layers that no mode adapts
ALSO = {
    "attn2.to_q": ("cross_attention/q", 0, 1),
    "attn2.to_k": ("cross_attention/k", 0, 1),
    "attn2.to_v": ("cross_attention/v", 0, 1),
    "attn2.to_out.0": ("cross_attention/proj", 0, 1),
    "norm1.linear": ("modulation", 0, 1),
}
#: outside blocks -> our path
OUTSIDE = {
    (pixart_diffusers.OUTSIDE | pixart_diffusers.MICRO)[name]: path
    for path, name in (pixart_layout.OUTSIDE | pixart_layout.MICRO).items()
}
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
    own = params["modes"][patch_name(patch)]
    if (rank := rank_of(own)) is None:
        raise UserError(f"mode {short_patch_name(patch)} has no adapters; export it without adapters_only")
    tensors: dict[str, np.ndarray] = {}
    for module, (path, part, parts) in BLOCK.items():
        a, b = (np.asarray(flatten(own)[f"blocks/{path}/{leaf}"], np.float32) for leaf in ("lora_a", "lora_b"))
        for i in range(len(a)):
            name = f"{PREFIX}transformer_blocks.{i}.{module}.lora_"
            tensors |= {f"{name}A.weight": a[i].T, f"{name}B.weight": np.split(b[i], parts, axis=-1)[part].T}
    rest = {path: np.asarray(leaf) for path, leaf in flatten(own).items() if "/lora_" not in path}
    words = {"patch": patch_name(patch), "base": fingerprint(_frozen(params))}
    config = {
        **PLAIN,
        "base_model_name_or_path": None,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "r": rank,
        "target_modules": list(BLOCK),
        "task_type": None,
        "use_rslora": False,
    }
    if not overwrite:
        check_config(folder / CONFIG, config)
        check_tensors(folder / WEIGHTS, tensors, lambda file: read_safetensors(file)[0])
        check_tensors(folder / OWN, rest | words, lambda file: merge(*read_safetensors(file)))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / WEIGHTS, tensors, {"format": "pt"})
        write_safetensors(folder / OWN, rest, words)
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
    scale = _scale(json_object(where), where)
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{folder} holds no {WEIGHTS}; save the adapters as safetensors")
    pairs = _pairs(read_safetensors(folder / WEIGHTS)[0], folder / WEIGHTS)
    if (folder / OWN).is_file():
        return _with_mode(folder, base, pairs, scale)
    trunk, changed = flatten(base["trunk"]), set()
    for module, (a, b) in pairs.items():
        name, layer, part, parts = _place(module, trunk, folder)
        if name not in changed:
            trunk[name] = np.array(trunk[name], np.float32)  # the base keeps its own
            changed.add(name)
        into = np.split(trunk[name][layer], parts, axis=-1)[part]  # a view
        if a.shape[1:] + b.shape[:1] != into.shape or len(a) != b.shape[1]:
            raise UserError(f"{folder}: {module} is {list(into.shape[::-1])}, its A {list(a.shape)}, B {list(b.shape)}")
        into += scale(len(a)) * (a.T @ b.T)
    return {**base, "trunk": unflatten(trunk)}


def _with_mode(folder: Path, base: Params, pairs: dict[str, tuple[np.ndarray, np.ndarray]], scale: Any) -> Params:
    """The stored tree with the mode of a folder that `write_peft` wrote."""
    rest, words = read_safetensors(folder / OWN)
    if (found := fingerprint(_frozen(base))) != words.get("base"):
        made = str(words.get("base"))
        raise UserError(f"{folder} was made for another base model (fingerprint {made[:12]}, base= has {found[:12]})")
    depth, leaves = len(base["trunk"]["blocks"]["mlp"]["fc2"]["bias"]), dict(rest)
    for path in {path: None for path, *_ in BLOCK.values()}:
        modules = [module for module, (at, *_) in BLOCK.items() if at == path]
        layers = []
        for i in range(depth):
            try:
                both = [pairs.pop(f"transformer_blocks.{i}.{module}") for module in modules]
            except KeyError as error:
                raise UserError(f"{folder / WEIGHTS} lacks the LoRA of {error.args[0]}") from None
            if not all(np.array_equal(a, both[0][0]) for a, _ in both):
                raise UserError(f"{folder}: A of {' and '.join(modules)} differ, and one layer here has one")
            layers.append((both[0][0].T, np.concatenate([scale(len(a)) * b.T for a, b in both], axis=-1)))
        for leaf, stack in zip(("lora_a", "lora_b"), zip(*layers, strict=True), strict=True):
            leaves[f"blocks/{path}/{leaf}"] = np.stack(stack)
    if pairs:
        raise UserError(f"{folder / WEIGHTS} holds LoRA of {told([*pairs])}, which a mode has none of")
    return {**base, "modes": {**base["modes"], patch_name(as_patch(words["patch"])): unflatten(leaves)}}


def _frozen(params: Params) -> Params:
    return {key: params[key] for key in ("trunk", "tokens")}


def _scale(config: Mapping[str, Any], where: Path) -> Any:
    """What B A is multiplied by, by its rank.

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
    return lambda rank: np.float32(alpha / (rank**0.5 if config.get("use_rslora") else rank))


def _pairs(state: Mapping[str, np.ndarray], where: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A and B by the layer that they change."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, array in state.items():
        match = re.fullmatch(r"(?:base_model\.model\.|transformer\.)?(.+)\.lora_([AB])(?:\.default)?\.weight", name)
        if match is None or array.ndim != 2:
            raise UserError(f"{name} of {where} is no A or B of a LoRA of linear layers, which alone is read")
        found.setdefault(match[1], {})[match[2]] = array.astype(np.float32)
    if half := [module for module, both in found.items() if len(both) < 2]:
        raise UserError(f"{where} lacks A or B of {told(half)}")
    return {module: (both["A"], both["B"]) for module, both in found.items()}


def _place(module: str, trunk: Mapping[str, Any], folder: Path) -> tuple[str, tuple[int, ...], int, int]:
    """The kernel of a layer: its path in a trunk, which of its blocks, and which of how many parts of its columns."""
    block = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", module)
    path, part, parts = (BLOCK | ALSO).get(block[2], ("", 0, 1)) if block else (OUTSIDE.get(module, ""), 0, 1)
    name = f"blocks/{path}/kernel" if block else f"{path}/kernel"
    layer = (int(block[1]),) if block else ()
    if not path or name not in trunk or (layer and layer[0] >= len(trunk[name])):
        raise UserError(f"{folder} holds LoRA of {module}, which base= has not, or cannot have merged")
    return name, layer, part, parts
