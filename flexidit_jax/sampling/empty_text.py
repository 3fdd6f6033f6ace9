"""What stands for no text where a model's files hold nothing that does: features of an empty one, encoded once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.hub import FORCED
from flexidit_jax.common.notes import note
from flexidit_jax.common.trees import merge
from flexidit_jax.common.types import Params
from flexidit_jax.convert.said import Said


def completed(
    config: Mapping[str, Any], params: Params, said: Said, text: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], Params]:
    """A model as `convert.read_model` reads it, with features of no text where it has none and they can be had.

    The encoder of a pipeline at the hub is not fetched for that, unless `said.null` asks for it.

    Args:
      text: the section of an encoder that lies apart, which holds in place of the pipeline's.

    Raises:
      UserError: `said.null` is "empty", and there is no text encoder, or it is not one of this model.
    """
    config, conditioner = dict(config), config["model"]["conditioner"]
    elsewhere = text is None and str((config.get("text") or {}).get("path")).startswith(FORCED)
    if text is not None:
        config["text"] = text
    text, lacks = config.get("text"), conditioner.get("null_length") == 0
    if said.null != "empty" and (said.null is not None or not lacks or text is None or elsewhere):
        if said.null is None and lacks and elsewhere:
            note(f"nothing stands for no text yet; null='empty' fetches the text encoder of {text['path']} for that")
        return config, params
    if text is None:
        raise UserError("null='empty' wants a text encoder; name one as text=, such as the folder of its pipeline")
    section = {**text, "length": text.get("length") or conditioner["length"]}
    try:
        encoder = build.part("flexidit_jax.text", "Encoder", section, "text")
        return with_empty_text(config, params, encoder, said.null_mask)
    except UserError as error:
        if said.null is not None:
            raise
        note(f"nothing stands for no text yet, as its encoder cannot be used: {error}")
        return config, params


def with_empty_text(
    config: Mapping[str, Any], params: Params, encoder: Any, mask: str | None = None
) -> tuple[dict[str, Any], Params]:
    """A model with the features that its text encoder, whose memory is given back, makes of "".

    Args:
      config, params: as `convert.read_model` reads them.
      encoder: see `text`.
      mask: which of the features count: "own" (None), those of its tokens; or "caption", all there is room for.

    Raises:
      UserError: an encoder of other features, or one that cannot be read (its `check`).
    """
    conditioner = config["model"]["conditioner"]
    encoder.check(conditioner["features"])
    try:
        found = encoder.encode([""], padded=mask == "caption")
    finally:
        encoder.free()
    [features], [own] = found["tokens"], found["mask"]
    features = np.array(features if mask == "caption" else features[own], np.float32)
    conditioner = {**conditioner, "null_length": len(features), "null_mask": mask or "own"}
    null = {"trunk": {"conditioner": {"null": features}}}
    return {**config, "model": {**config["model"], "conditioner": conditioner}}, merge(params, null)
