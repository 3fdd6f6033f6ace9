"""`load(path) -> FlexiDiT`, of whatever holds a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.arguments import path_of, typed
from flexidit_jax.common.build import Section
from flexidit_jax.common.notes import note
from flexidit_jax.common.program_cache import keep_session_programs
from flexidit_jax.common.types import Params
from flexidit_jax.convert.read_model import read_model
from flexidit_jax.convert.said import Said, apart
from flexidit_jax.convert.which_process import asked_process, process_of
from flexidit_jax.models.build import recorded_dit
from flexidit_jax.sampling.empty_text import completed


def load(
    path: str | Path,
    num_heads: int | None = None,
    base: str | Path | FlexiDiT | None = None,
    weights: str | None = None,
    process: str | Section | None = None,
    codec: str | Path | Section | None = None,
    text: str | Path | Section | None = None,
    input_size: int | None = None,
    interpolation_scale: float | None = None,
    length: int | None = None,
    null: str | None = None,
    null_mask: str | None = None,
) -> FlexiDiT:
    """Loads a model from whatever holds one.

    Args:
      path: a training run's folder (its newest checkpoint, EMA weights), one step inside its
        `checkpoints`, a folder written by `save`, a weight file of a DiT, PixArt or Wan (.safetensors, .pt), or the
        folder of one as diffusers or its own repository has it, whose other parts are used where it is a whole
        pipeline; or, where there is no such path, the name of a model at the Hugging Face hub, `"owner/model"` or
        `"hf:owner/model@revision"` (the extra `hub`).
      num_heads: for a weight file, whose tensors do not tell; published sizes need none.
      base: for a folder saved with `adapters_only`, the model they were made for.
      weights: where there are several, "ema" for averaged ones (the default), "raw" for those they are the average of;
        in a weight file also the words that stand before their names.
      process: what a DiT weight file or a diffusers folder is for, which its tensors do not tell: a name such as
        "sit", or a section such as {"name": "flow", "shift": 3.0}; "gaussian" by default.
      codec, text: a VAE and a text encoder that lie apart, in place of the pipeline's: paths (of a Wan's own VAE and
        a UMT5; of others of an SD-VAE and a T5), or sections such as {"name": "t5", "path": ..., "length": 120}.
      input_size, interpolation_scale, length, null, null_mask: of a PixArt's file that does not tell (see
        `convert.said.Said`). By default a pipeline's `null` is "empty" and a weight file's "stored".

    Raises:
      UserError: nothing there that holds a model, a file that is damaged or of another layout, weights that are not
        finite, or a model that is another than is said.
    """
    keep_session_programs()
    path_of(path, "path")  # looked at, and left as it is: a str may be a name at the hub
    said = Said.typed(num_heads, input_size, interpolation_scale, length, null, null_mask)
    weights = typed(weights, "str | None", "weights")
    if not (base is None or isinstance(base, FlexiDiT)):
        path_of(base, "base")

    def lent() -> tuple[dict[str, Any], Params] | None:
        if base is None or isinstance(base, FlexiDiT):
            return base and (base.sections, base.params)
        of_base = Said(said.num_heads)
        return completed(*read_model(base, of_base, None, lambda: None), of_base)

    asked = asked_process(process)
    config, params = read_model(path, said, weights, lent)
    if base is not None and config.get("base") is None:
        note(f"{path} holds all of its weights; base= is not read")
    model = recorded_dit(config["model"])
    parts = apart(codec, text, model)
    said.check(path, model)
    config, params = completed({**config, **parts, "text": config.get("text")}, params, said, parts.get("text"))
    return FlexiDiT.of(config, params, process_of(Path(path), config["process"], asked or config.get("assumed")))
