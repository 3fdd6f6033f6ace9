"""What the folder of a diffusers pipeline says of its parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flexidit_jax.common.hub import FORCED
from flexidit_jax.common.tensor_files import json_object

#: what a pipeline's folders hold, and what it was trained for
INDEX, SCHEDULER = FILES = "model_index.json", "scheduler/scheduler_config.json"
ENCODER = "text_encoder"


def index_of(pipeline: Path) -> dict[str, Any]:
    """What its index says; empty without one.

    Raises:
      UserError: it is no JSON.
    """
    return json_object(pipeline / INDEX) if (pipeline / INDEX).is_file() else {}


def class_of(index: dict[str, Any], part: str) -> str | None:
    """The class of a part by the index; None where there is none."""
    kind = index.get(part)
    return kind[-1] if isinstance(kind, list) and kind else None


def has_encoder(pipeline: Path, name: str, kind: str) -> bool:
    """Whether it has a text encoder.

    Args:
      pipeline: its folder, which of a pipeline at the hub holds no more than was fetched.
      name: what it is called: its path, or `hf:owner/model@commit`, of which the index tells.
      kind: the class of the encoder.
    """
    if name.startswith(FORCED):
        return class_of(index_of(pipeline), ENCODER) == kind
    return (pipeline / ENCODER).is_dir()
