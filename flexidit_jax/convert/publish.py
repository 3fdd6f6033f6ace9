"""A DiT written in a published layout, chosen by the path."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from safetensors import SafetensorError

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import read_safetensors, write_safetensors
from flexidit_jax.common.torch_files import write_torch
from flexidit_jax.common.trees import merge
from flexidit_jax.common.types import Params, Patch
from flexidit_jax.convert import diffusers_layout, pixart_diffusers, wan_diffusers
from flexidit_jax.convert.dit_layout import write_dit
from flexidit_jax.convert.lora_file import write_lora_file
from flexidit_jax.convert.peft_layout import write_peft
from flexidit_jax.convert.pixart_layout import write_pixart
from flexidit_jax.convert.replaced import check_tensors
from flexidit_jax.convert.wan_layout import write_wan
from flexidit_jax.convert.weight_files import read_state_dict
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flexify import at


def write_mode(path: Path, model: DiT, params: Params, patch: Patch, overwrite: bool, adapters_only: bool) -> None:
    """Writes one mode by the published layout of its kind, or its adapters by themselves.

    Args:
      path: see `write_published`; of adapters a `.safetensors` file, or a folder as PEFT has it.
      model: the network.
      params: the stored tree.
      patch: the mode.
      overwrite: replace another model that is there.
      adapters_only: leave all else out.

    Raises:
      UserError: see `write_published`, or a mode without adapters.
    """
    if adapters_only:
        _check_ending(path, (".safetensors",))
        write = write_lora_file if path.suffix == ".safetensors" else write_peft
        write(path, params, patch, overwrite)
    else:
        write_published(path, model.at(patch), at(params, patch), overwrite)


def write_published(path: Path, model: DiT, params: Params, overwrite: bool = False) -> None:
    """Writes a model by the published layout of its kind: a DiT's, a PixArt's where it reads a text, or a Wan's.

    Args:
      path: `.safetensors` or `.pt` (with torch), or a folder for diffusers.
      model: the network.
      params: its plain parameters.
      overwrite: replace another model that is there.

    Raises:
      UserError: a mode that the layout cannot hold, another model at the path, or a path that cannot be written.
    """
    _check_ending(path, (".safetensors", ".pt", ".pth"))
    write, layout = write_dit, diffusers_layout
    if model.positions == "rope":
        write, layout = partial(write_wan, repository=True), wan_diffusers
    elif model.modulation == "single" and "cross_attention" in params["blocks"]:
        write, layout = write_pixart, pixart_diffusers
    state = write(model, params)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            heads = {"num_heads": str(model.num_heads)}
            if not overwrite:
                check_tensors(path, state | heads, lambda file: merge(*read_safetensors(file)))
            write_safetensors(path, state, heads)
        elif path.suffix in (".pt", ".pth"):
            if not overwrite:
                check_tensors(path, state, lambda file: read_state_dict(file)[0])
            write_torch(path, state)
        else:
            layout.write_folder(path, model, state, overwrite)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"cannot write to {path} ({error})") from None


def _check_ending(path: Path, known: tuple[str, ...]) -> None:
    """Refuses a path that is neither a file of a known ending nor a folder.

    Raises:
      UserError: so it is.
    """
    if re.fullmatch(r"\.[A-Za-z]\w*", path.suffix) and path.suffix not in known:
        endings = " or ".join(known[:2])
        raise UserError(f"path {path} names no layout; write {endings}, or a folder without an ending")
