"""LoRA as a lone file, as the programs of the field share them <-> adapters of a mode.

Facts of the layout: A and B by layer (`convert.lora`), of a Wan by the names of its repository behind
`diffusion_model.` (ComfyUI), also those of diffusers behind `transformer.`, or of kohya's programs, which say
`lora_down` and `lora_up`; an `alpha` beside them where it is not r. What else is a mode's own lies in a file beside it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import json_text, open_tensors, read_safetensors, write_safetensors
from flexidit_jax.common.trees import merge
from flexidit_jax.common.types import Params, Patch
from flexidit_jax.convert.lora import lora_of, read_lora
from flexidit_jax.convert.peft_layout import scale_of
from flexidit_jax.convert.replaced import check_tensors

SUFFIX = ".safetensors"
#: of what `write_lora_file` leaves beside it
OWN = ".mode.safetensors"
MARKS = (".lora_A.weight", ".lora_A.default.weight", ".lora_down.weight")
#: of a file of diffusers, where its metadata keep what PEFT's config says, behind a word
METADATA, WORD = "lora_adapter_metadata", "transformer."
#: in the metadata of a file that is of a mode
MODE = "mode"


def is_lora_file(path: Path) -> bool:
    """Whether a file is one.

    Raises:
      UserError: it cannot be read.
    """
    return path.suffix == SUFFIX and path.is_file() and any(name.endswith(MARKS) for name in open_tensors(path)[0])


def write_lora_file(path: Path, params: Params, patch: Patch, overwrite: bool = False) -> None:
    """The adapters of a mode -> a file that the programs of the field read, and what else is its own beside it.

    Args:
      path: a `.safetensors` file.
      params: the stored tree (`models.flexify`).
      patch: the mode.
      overwrite: replace another one that is there.

    Raises:
      UserError: a mode without adapters, or another file that is there.
    """
    lora = lora_of(params, patch)
    tensors: dict[str, np.ndarray] = {}
    for name, (a, b) in lora.pairs.items():
        there = f"{lora.layers.word}.{lora.layers.there(name)}"
        tensors |= {f"{there}.lora_A.weight": a, f"{there}.lora_B.weight": b}
    own = path.with_suffix(OWN)
    if not overwrite:
        check_tensors(path, tensors, lambda file: read_safetensors(file)[0])
        check_tensors(own, lora.own | lora.words, lambda file: merge(*read_safetensors(file)))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(own, lora.own, lora.words)
        write_safetensors(path, tensors, {"format": "pt", MODE: lora.words["patch"]})
    except OSError as error:
        raise UserError(f"cannot write to {path} ({error.strerror})") from None


def read_lora_file(path: Path, base: Params) -> Params:
    """A file -> the stored tree with its mode, or with the pre-trained layers that it changes.

    Args:
      path: see `is_lora_file`.
      base: the stored tree that it was made for.

    Raises:
      UserError: another kind of adapter, layers that the model does not have, or a mode of another base.
    """
    metadata, own = open_tensors(path)[1], path.with_suffix(OWN)
    if MODE in metadata and not own.is_file():
        raise UserError(f"{path} is of mode {metadata[MODE]}, and lacks {own.name} beside it, which is its own")
    if METADATA in metadata:
        inside = f"the metadata of {path}"
        config = json_text(metadata[METADATA], inside)
        scale = scale_of({key.removeprefix(WORD): said for key, said in config.items()}, inside)
    else:
        scale = _own_scale
    return read_lora(path, own, base, scale)


def _own_scale(rank: int, alpha: float | None) -> np.float32:
    return np.float32(1 if alpha is None else alpha / rank)
