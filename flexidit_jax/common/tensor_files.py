"""Files of named tensors (.safetensors) and the `config.json` beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 (teaches numpy bfloat16, which safetensors looks up by name)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import written_aside


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors by name, in the type they are stored in, and the file's metadata.

    Raises:
      UserError: unreadable or truncated.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in list(file.keys())}, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); is the download complete?") from None


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Tensors by name, and metadata; whole or not at all."""
    with written_aside(path) as unfinished:
        save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, unfinished, metadata)


def config_beside(path: Path) -> dict[str, Any]:
    """The `config.json` beside a weight file; empty when there is none, or when it is not an object.

    Raises:
      UserError: it is not JSON.
    """
    beside = path.parent / "config.json"
    if not beside.is_file():
        return {}
    try:
        config = json.loads(beside.read_text())
    except ValueError as error:
        raise UserError(f"{beside} is not valid JSON ({error})") from None
    return config if isinstance(config, dict) else {}


def differences(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, np.ndarray]) -> list[str]:
    """Every missing, unexpected and misshapen name, in words; empty when all is well."""
    problems = [f"missing {name}" for name in expected if name not in found]
    problems += [f"unexpected {name}" for name in found if name not in expected]
    problems += [
        f"{name} is {list(found[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    return problems
