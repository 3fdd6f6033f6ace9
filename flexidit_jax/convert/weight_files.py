"""The weight file of a DiT or PixArt -> its state dict, and what the file says of the model that no tensor tells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import Tensors, config_beside, json_text
from flexidit_jax.common.weights import open_weights
from flexidit_jax.convert import dit_layout, pixart_diffusers, pixart_layout, wan_names

#: the mark of a DiT is a PixArt's too
NETWORKS = (*wan_names.NETWORKS, pixart_layout.NETWORK, pixart_diffusers.NETWORK, dit_layout.NETWORK)


def read_state_dict(path: Path, which: str | None = None) -> tuple[Tensors, dict[str, Any]]:
    """Reads safetensors, or what torch saved with torch installed, as wrapped and prefixed as files are.

    Args:
      path: the file.
      which: of raw and averaged weights, see `common.weights.open_weights`.

    Returns:
      The tensors by the names of their layout, unread; and of `num_heads`, `input_size` (the latent's side) and
      `interpolation_scale` what the metadata of the file, or else the `config.json` beside it, says, with all of a
      `config` of diffusers where there is one.

    Raises:
      UserError: see `common.weights.open_weights`, or a number that is none.
    """
    state, metadata = open_weights([path], NETWORKS, which)
    beside, inside = path.parent / "config.json", f"the metadata of {path}"
    config = config_beside(path)
    said = _numbers(config, str(beside)) | _numbers(metadata, inside)
    if isinstance(text := metadata.get("config"), str):
        config = json_text(text, inside)
    return Tensors(state), said | ({"config": config} if "_class_name" in config else {})


def _numbers(says: Mapping[str, Any], where: str) -> dict[str, int | float]:
    found = {key: says[key] for key in ("num_heads", "input_size") if says.get(key) is not None}
    for key, value in found.items():
        if isinstance(value, bool) or not str(value).isdecimal() or int(value) < 1:
            raise UserError(f"{where} says {key}={value!r}, which is not a positive whole number")
    numbers: dict[str, int | float] = {key: int(value) for key, value in found.items()}
    if (scale := says.get("interpolation_scale")) is not None:
        if isinstance(scale, bool) or not re.fullmatch(r"\d+(\.\d+)?", str(scale)) or float(scale) <= 0:
            raise UserError(f"{where} says interpolation_scale={scale!r}, which is not a positive number")
        numbers["interpolation_scale"] = float(scale)
    return numbers
