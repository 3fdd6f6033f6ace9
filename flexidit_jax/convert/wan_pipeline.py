"""What lies beside the transformer in the folder of a Wan 2.1, of diffusers or of the Wan repository."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import json_object
from flexidit_jax.convert.pipeline import SCHEDULER, class_of, has_encoder, index_of

#: in the Wan repository
VAE, ENCODER, TOKENIZER = "Wan2.1_VAE.pth", "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl"
#: the second of a pipeline's transformers
SECOND = "transformer_2"
TWO = "is a Wan 2.2, which has two transformers; a Wan 2.1 would do"
#: of a scheduler: where it is not said
SHIFT = 3.0


def check_single(root: Path, pipeline: Path) -> None:
    """Refuses a transformer that is one of two.

    Args:
      root: its folder.
      pipeline: that which was named, perhaps the same.

    Raises:
      UserError: so it is, as Wan 2.2 has them.
    """
    index = index_of(root.parent) | index_of(pipeline)
    if (root.parent / SECOND).is_dir() or class_of(index, SECOND) or index.get("boundary_ratio") is not None:
        raise UserError(f"{pipeline} {TWO}")


def beside(pipeline: Path, name: str) -> dict[str, Any]:
    """The sections of the other parts, None where there is none.

    Args:
      pipeline: its folder, which of a pipeline at the hub holds no more than was fetched.
      name: what it is called: its path, or `hf:owner/model@commit`.

    Raises:
      UserError: a noise process that no Wan that is read has, or a file that is no JSON.
    """
    codec, text = None, None
    if (pipeline / "vae").is_dir() or (pipeline / VAE).is_file():
        codec = {"name": "wan_vae", "path": str(pipeline)}
    if has_encoder(pipeline, name, "UMT5EncoderModel"):
        text = {"name": "umt5", "path": name}
    elif (pipeline / ENCODER).is_file():
        text = {"name": "umt5", "path": str(pipeline / ENCODER), "tokenizer": str(pipeline / TOKENIZER)}
    return {"assumed": {"name": "flow", "shift": _shift(pipeline / SCHEDULER)}, "codec": codec, "text": text}


def _shift(file: Path) -> float:
    """Of a scheduler, whose word it is; older ones have another.

    Raises:
      UserError: it is no number, or the scheduler is for noise that is told otherwise.
    """
    config = json_object(file) if file.is_file() else {}
    if (said := config.get("prediction_type", "flow_prediction")) != "flow_prediction":
        raise UserError(f"{file} says prediction_type is {said!r}, and a Wan that is read has 'flow_prediction'")
    shift = config.get("flow_shift", config.get("shift", SHIFT))
    if type(shift) not in (int, float) or shift <= 0:
        raise UserError(f"{file} must say flow_shift as a positive number, got {shift!r}")
    return float(shift)
