"""Files that torch saved, read by its own reader of tensors alone, which runs nothing. Only these want torch."""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import written_aside

#: names -> what reads each tensor when it is called
Unread: TypeAlias = Mapping[str, Callable[[], np.ndarray]]

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin")


def open_torch(path: Path, zipped: bool) -> Unread:
    """Tensors by name, those of floating point float32 once they are read.

    Mappings within mappings become names joined by dots; what is no tensor is left out.

    Args:
      zipped: whether it is a zip archive, as torch writes since 1.6, whose tensors stay on disk until they are read.

    Raises:
      UserError: torch is not installed, the file cannot be read, would run code, or holds no tensor with a name.
    """
    torch = _torch(path)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file that is refused next
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)  # args: of DiT's own train.py
    except Exception as error:  # torch raises a different class for each way a file can be bad
        if code := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{path} holds a pickled {code[1]}, which only running its code could read; have tensors alone saved:"
                " torch.save(model.state_dict(), FILE)"
            ) from None
        if "TorchScript" in str(error):
            raise UserError(
                f"{path} is a TorchScript program; have its tensors saved: torch.save(model.state_dict(), FILE)"
            ) from None
        raise UserError(f"{path} is not a readable file of tensors that torch saved; is it whole?") from None
    found: dict[str, Callable[[], np.ndarray]] = {}
    nodes, seen = [("", loaded)], set()
    while nodes:
        name, node = nodes.pop()
        if isinstance(node, Mapping) and id(node) not in seen:
            seen.add(id(node))
            nodes += [(f"{name}.{key}" if name else str(key), value) for key, value in reversed(node.items())]
        elif isinstance(node, torch.Tensor):
            found[name] = partial(_array, node)
    if not found:
        raise UserError(f"{path} does not hold a state dict (a mapping from names to tensors)")
    return found


def _array(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def write_torch(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes a state dict."""
    torch = _torch(path)
    with written_aside(path) as unfinished:
        torch.save({key: torch.from_numpy(np.array(value, order="C")) for key, value in tensors.items()}, unfinished)


def _torch(path: Path) -> ModuleType:
    try:
        import torch
    except ImportError:
        raise UserError(
            f"{path.name} needs torch (pip install -e '.[convert]'); a .safetensors file does not"
        ) from None
    return torch
