"""Weight files of any published kind -> a state dict of numpy arrays, without running what they hold."""

from __future__ import annotations

import argparse
from pathlib import Path
from types import ModuleType

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import written_aside
from flexidit_jax.common.tensor_files import config_beside, read_safetensors

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth")


def read_state_dict(path: Path) -> tuple[dict[str, np.ndarray], int | None]:
    """Reads `.safetensors`, or `.pt` with torch installed.

    A training checkpoint's `ema` weights are taken. Heads, which a DiT state dict does not hold, are
    looked up in the safetensors metadata, then in a `config.json` beside the file.

    Returns:
      The tensors by name, and the number of heads or None.

    Raises:
      UserError: unreadable, truncated, or a `.pt` file holding anything but tensors.
    """
    state, heads = _read_torch(path) if path.suffix in (".pt", ".pth") else _read_safetensors(path)
    if heads is None:
        heads = config_beside(path).get("num_heads")
    return state, heads


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], int | None]:
    state, metadata = read_safetensors(path)
    heads = metadata.get("num_heads")
    if heads and not heads.isdecimal():
        raise UserError(f"the metadata of {path} says num_heads={heads!r}, which is not a number")
    return state, int(heads) if heads else None


def write_torch(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes a `.pt` state dict; needs torch."""
    torch = _torch(path)
    with written_aside(path) as unfinished:
        torch.save({key: torch.from_numpy(np.array(value)) for key, value in tensors.items()}, unfinished)


def _torch(path: Path) -> ModuleType:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path.name} needs torch (pip install -e '.[convert]'); a .safetensors file does not"
        ) from None
    return torch


def _read_torch(path: Path) -> tuple[dict[str, np.ndarray], int | None]:
    torch = _torch(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # DiT's own train.py stores its args
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a different class for each way a file can be bad
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path} is not a readable file of tensors ({reason[:160]})") from None
    if isinstance(loaded, dict) and isinstance(loaded.get("ema"), dict):
        loaded = loaded["ema"]
    if not isinstance(loaded, dict) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise UserError(f"{path} does not hold a state dict (a mapping from names to tensors)")
    return {key: value.float().numpy() for key, value in loaded.items()}, None
