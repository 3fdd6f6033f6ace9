"""Latents of samples as a file, written before they are decoded: decoding is done again from it alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import read_safetensors, write_safetensors

FILE = "latents.safetensors"
_KEY, _CODEC = "latents", "codec"


def write_latents(folder: Path, latents: np.ndarray, codec: str) -> None:
    """Writes latents [N, F, h, w, C], whole or not at all.

    Args:
      codec: the `fingerprint` of what decodes them.

    Raises:
      UserError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_safetensors(folder / FILE, {_KEY: np.asarray(latents)}, {_CODEC: codec})
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror})") from None


def read_latents(path: Path, codec: str) -> np.ndarray:
    """Latents [N, F, h, w, C] of a file, or of a folder that has one.

    Args:
      codec: the `fingerprint` of what is to decode them.

    Raises:
      UserError: no such file, one of something else, or latents of another codec.
    """
    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"no latents in {path}; --mode=sample of clips writes {FILE} into the folder of its samples")
    tensors, words = read_safetensors(file)
    if _KEY not in tensors or _CODEC not in words or tensors[_KEY].ndim != 5:
        raise UserError(f"{file} holds no latents of samples, which --mode=sample of clips writes")
    if words[_CODEC] != codec:
        raise UserError(
            f"{file} holds latents of another codec: its weights are {words[_CODEC]} there, {codec} here; set"
            " codec.path to those"
        )
    return tensors[_KEY]
