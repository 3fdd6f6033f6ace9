"""What a model would be written over: the same may be written again, another is replaced where that is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.config import leaves
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import json_object


def check_tensors(file: Path, ours: Mapping[str, Any], read: Callable[[Path], Mapping[str, Any]]) -> None:
    """Refuses a weight file that is there and holds other tensors than those to be written.

    Args:
      file: may be absent.
      ours: arrays, and words about them, by name.
      read: what such a file holds, so named.

    Raises:
      UserError: the first that differs, or that the file is of another kind.
    """
    _check(file, ours, read, "holds no weights")


def check_config(file: Path, ours: Mapping[str, Any], read: Callable[[Path], Mapping[str, Any]] = json_object) -> None:
    """The same of a `config.json`."""
    words = dict(leaves(json.loads(json.dumps(ours))))
    _check(file, words, lambda file: dict(leaves(json.loads(json.dumps(read(file))))), "describes no model")


def _check(file: Path, ours: Mapping[str, Any], read: Callable[[Path], Mapping[str, Any]], else_it: str) -> None:
    if not file.exists():
        return
    ask = "overwrite=True replaces it, or name another place"
    try:
        theirs = read(file)
    except UserError:
        raise UserError(f"{file} is there and {else_it}; {ask}") from None
    for name in [*ours, *theirs]:
        here, there = (held.get(name, "missing") for held in (ours, theirs))
        if np.array_equal(here, there):
            continue
        words = tuple(list(value.shape) if isinstance(value, np.ndarray) else value for value in (there, here))
        how = f"other values of {name}" if words[0] == words[1] else "{} is {} there, {} here".format(name, *words)
        raise UserError(f"{file} is of another model ({how}); {ask}")
