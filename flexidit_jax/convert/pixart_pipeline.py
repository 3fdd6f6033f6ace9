"""What lies beside the transformer in the folder of a PixArt's pipeline: text encoder, length of texts, process."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import json_object
from flexidit_jax.convert.pipeline import SCHEDULER, has_encoder, index_of

#: tokens of a text, by the class of the pipeline
LENGTHS = {"PixArtAlphaPipeline": 120, "PixArtSigmaPipeline": 300}
#: of a scheduler -> of our process; how samples are drawn, which else it speaks of, is said elsewhere
BETAS = {"num_train_timesteps": "steps", "beta_start": "beta_start", "beta_end": "beta_end"}
#: of a scheduler, what a PixArt's process is
IS_SO = {
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "trained_betas": None,
    "rescale_betas_zero_snr": False,
}


class Beside(NamedTuple):
    """Of a pipeline; None where it does not tell.

    Attributes:
      text: the section of its text encoder.
      length: tokens of its texts.
      process: the section of its noise process.
    """

    text: dict[str, Any] | None = None
    length: int | None = None
    process: dict[str, Any] | None = None


def beside(pipeline: Path, name: str) -> Beside:
    """What a pipeline tells beside its transformer.

    Args:
      pipeline: its folder, which of a pipeline at the hub holds no more than was fetched.
      name: what it is called: its path, or `hf:owner/model@commit`.

    Raises:
      UserError: a noise process that no PixArt that is read has, or a file that is no JSON.
    """
    text = {"name": "t5", "path": name} if has_encoder(pipeline, name, "T5EncoderModel") else None
    return Beside(text, LENGTHS.get(index_of(pipeline).get("_class_name")), _process(pipeline / SCHEDULER))


def _process(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    config = json_object(file)
    for key, value in IS_SO.items():
        if (said := config.get(key, value)) != value:
            raise UserError(f"{file} says {key} is {said!r}, and a PixArt that is read has {value!r}")
    found = {ours: config[theirs] for theirs, ours in BETAS.items() if theirs in config}
    for theirs, ours in BETAS.items():
        if ours in found and type(found[ours]) not in (int, float):
            raise UserError(f"{file} must say {theirs} as a number, got {found[ours]!r}")
    return {"name": "gaussian", **found} if len(found) == len(BETAS) else None
