"""A DiT's weight file -> its state dict, and what the file says of the model that no tensor tells."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import config_beside
from flexidit_jax.common.weights import read_weights
from flexidit_jax.convert.dit_layout import NETWORK


def read_state_dict(path: Path, which: str | None = None) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Reads safetensors, or what torch saved with torch installed, as wrapped and prefixed as files are.

    Args:
      path: the file.
      which: of raw and averaged weights, see `common.weights.read_weights`.

    Returns:
      The tensors by published name; and of `num_heads` and `input_size` (the latent's side) what the metadata of the
      file, or else the `config.json` beside it, says.

    Raises:
      UserError: see `common.weights.read_weights`, or a number that is none.
    """
    state, metadata = read_weights([path], NETWORK, which)
    beside = path.parent / "config.json"
    said = _numbers(config_beside(path), str(beside)) | _numbers(metadata, f"the metadata of {path}")
    return state, said


def _numbers(says: Mapping[str, Any], where: str) -> dict[str, int]:
    found = {key: says[key] for key in ("num_heads", "input_size") if says.get(key) is not None}
    for key, value in found.items():
        if isinstance(value, bool) or not str(value).isdecimal() or int(value) < 1:
            raise UserError(f"{where} says {key}={value!r}, which is not a positive whole number")
    return {key: int(value) for key, value in found.items()}
