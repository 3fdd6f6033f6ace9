"""A DiT written in a published layout, chosen by the path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import write_safetensors
from flexidit_jax.common.torch_files import write_torch
from flexidit_jax.convert.diffusers_layout import write_folder
from flexidit_jax.models.dit import DiT


def write_published(path: Path, model: DiT, state: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict of the published layout.

    Args:
      path: `.safetensors` or `.pt` (with torch), or a folder for diffusers.
      model: the DiT it belongs to.
      state: from `convert.dit_layout.write_dit`.

    Raises:
      UserError: a mode that diffusers cannot hold, or a path that cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".safetensors":
            write_safetensors(path, state, {"num_heads": str(model.num_heads)})
        elif path.suffix in (".pt", ".pth"):
            write_torch(path, state)
        else:
            write_folder(path, model, state)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise UserError(f"cannot write to {path} ({error})") from None
