"""A folder of our own: `config.json` says what the model is, `model.safetensors` holds its stored tree."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.arguments import shown
from flexidit_jax.common.build import Section
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import written_aside
from flexidit_jax.common.tensor_files import differences, json_object, read_safetensors, told, write_safetensors
from flexidit_jax.common.trees import fingerprint, flatten, merge, unflatten
from flexidit_jax.common.types import Params, as_patch, patch_name
from flexidit_jax.convert.replaced import check_config, check_tensors
from flexidit_jax.models.build import describe, init, recorded_dit
from flexidit_jax.models.flexify import adapter_rank, flexify, patches_of, split_frozen

#: reads the model that adapters saved by themselves were made for, as `convert.read_model` does; None without one
Lent: TypeAlias = Callable[[], tuple[dict[str, Any], Params] | None]

FORMAT = "flexidit_jax/1"
WEIGHTS = "model.safetensors"


def write_saved(
    folder: Path, config: dict[str, Any], params: Params, adapters_only: bool, overwrite: bool = False
) -> None:
    """Writes a stored tree, or only the modes of one with adapters and the fingerprint of the rest.

    Args:
      folder: made if need be.
      config: the `model`, `process` and `codec` sections, and `text` where there is an encoder.
      params: the stored tree.
      adapters_only: leave the frozen weights out.
      overwrite: replace another model that is there.

    Raises:
      UserError: no adapters to save by themselves, a folder of something else, or one that cannot be written.
    """
    if adapters_only and adapter_rank(params) is None:
        raise UserError("this model has no adapters to save by themselves; leave out adapters_only")
    if (folder / "checkpoints").exists():
        raise UserError(f"{folder} is the folder of a training run; save into another")
    kept = {"modes": params["modes"]} if adapters_only else params
    base = fingerprint(split_frozen(params)[1]) if adapters_only else None
    config = {"format": FORMAT, "patches": patches_of(params), "base": base, **config}
    tensors = {name: np.asarray(leaf) for name, leaf in flatten(kept).items()}
    if not overwrite:
        check_config(folder / "config.json", config, _as_now)
        check_tensors(folder / WEIGHTS, tensors, lambda file: read_safetensors(file)[0])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / WEIGHTS, tensors)
        with written_aside(folder / "config.json") as file:
            file.write_text(json.dumps(config, indent=2) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror})") from None


def read_saved(folder: Path, which: str | None, lent: Lent) -> tuple[dict[str, Any], Params]:
    """The config and the stored tree of a folder; `lent` reads the model that adapters were made for.

    Raises:
      UserError: another format, a choice of weights where there is none, tensors that are missing, unexpected,
        misshapen (all named) or not finite, or adapters without the base they were made for.
    """
    config = json_object(folder / "config.json")
    if (written := config.get("format")) != FORMAT:
        raise UserError(f"{folder} is not a model saved by this version (format {written!r})")
    keys = ("patches", "base", "model", "process", "codec", "text")
    config = build.call(_described, {key: config[key] for key in keys if key in config}, f"{folder}/config.json")
    if which is not None:
        raise UserError(f"{folder} is a saved model, which has one set of weights; leave out weights={which!r}")
    params = unflatten(read_safetensors(folder / WEIGHTS)[0])
    if config["base"] is not None:
        _, base = lent_to(folder, lent)
        frozen = {key: base[key] for key in ("trunk", "tokens")}
        found, wanted = fingerprint(frozen), config["base"]
        if found != wanted:
            raise UserError(
                f"{folder} was made for another base model (fingerprint {wanted[:12]}, base= has {found[:12]})"
            )
        params = merge(frozen, params)
    for patch in config["patches"]:  # a lone mode has no leaves of its own
        params.setdefault("modes", {}).setdefault(patch_name(as_patch(patch)), {})
    check_tree(config, params, folder / WEIGHTS)
    return config, params


def check_tree(config: dict[str, Any], params: Params, where: Path) -> None:
    """Refuses a stored tree that is not one of a config's model.

    Raises:
      UserError: leaves that are missing, unexpected or misshapen, all named.
    """
    model = recorded_dit(config["model"])
    patches, rank = patches_of(params), adapter_rank(params)
    tree = jax.eval_shape(lambda: flexify(init(model, jax.random.key(0)), patches, rank))
    shapes = {name: leaf.shape for name, leaf in flatten(tree).items()}
    if problems := differences(shapes, flatten(params)):
        raise UserError(f"{where} does not hold this model: " + told(problems))


def lent_to(folder: Path, lent: Lent) -> tuple[dict[str, Any], Params]:
    """The model that a folder of adapters was made for.

    Raises:
      UserError: none is given.
    """
    if (base := lent()) is None:
        raise UserError(f"{folder} holds adapters only; pass the model they were made for as base=")
    return base


def _as_now(file: Path) -> dict[str, Any]:
    """What a folder's `config.json` says, its model described as one would be today."""
    said = json_object(file)
    try:
        return said | {"model": describe(recorded_dit(said.get("model")))}
    except UserError:
        return said


def _described(
    patches: Sequence[Any],
    base: str | None,
    model: Section,
    process: Section,
    codec: Section | None,
    text: Section | None = None,
) -> dict[str, Any]:
    """What a folder's `config.json` says of its model; `build` names a key that is missing or of another type."""
    if isinstance(patches, str) or not isinstance(patches, Sequence) or not patches:
        raise UserError(f"config key 'patches' must be a list of patch sizes, got {shown(patches)}")
    return {"patches": patches, "base": base, "model": model, "process": process, "codec": codec, "text": text}
