"""Prompts as users hand them in, and their features: of each text its own tokens alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from flexidit_jax.common.arguments import shown
from flexidit_jax.common.errors import UserError
from flexidit_jax.text.prompt_files import prompts_file, read_prompt_file


def read_prompts(asked: str | Sequence[str]) -> list[str]:
    """Prompts of a file, see `text.prompt_files`; of a list; or one by itself.

    Raises:
      UserError: a file that is not there, is no text or is empty; or see `check_prompts`.
    """
    if not isinstance(asked, str):
        return check_prompts(asked)
    path = prompts_file(asked)
    return check_prompts([asked]) if path is None else [prompt.text for prompt in read_prompt_file(path)]


def check_prompts(prompts: Any) -> list[str]:
    """Refuses what is no list of prompts.

    Raises:
      UserError: with the first that is none.
    """
    if isinstance(prompts, str) or not isinstance(prompts, Sequence) or not len(prompts):
        raise UserError(f"prompts must be a list of texts, and at least one, got {shown(prompts)}")
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            raise UserError(f"prompt {number} must be a text, got {shown(prompt)}")
        if not prompt.strip():
            raise UserError(f"prompt {number} is empty; write what is to be seen, or leave it out")
    return list(prompts)


def features_of(encoder: Any, prompts: Sequence[str]) -> list[np.ndarray]:
    """What an encoder makes of texts: float32 [m, k] each, of its own tokens; what fills them up is left out."""
    found = encoder.encode(prompts)
    return [tokens[mask] for tokens, mask in zip(found["tokens"], found["mask"], strict=True)]


def with_features(encoder: Any, width: int, *asked: Any) -> list[Any]:
    """What is asked for, with features in place of texts; then the encoder's memory is given back.

    Args:
      encoder: see `text`; None where a model has none.
      width: k, channels of a token that the model reads.
      asked: lists in which some are texts; a text or its features by themselves, which become a list of one; or
        anything else, which stays as it is.

    Raises:
      UserError: texts and no encoder; an empty one in the first list; or see the encoder's `check`.
    """
    asked = [[one] if isinstance(one, str) or getattr(one, "ndim", 0) == 2 else one for one in asked]
    lists = [one for one in asked if isinstance(one, (list, tuple))]
    texts = list(dict.fromkeys(text for one in lists for text in one if isinstance(text, str)))
    if not texts:
        return asked
    for number, text in enumerate(asked[0] if isinstance(asked[0], (list, tuple)) else ()):
        if isinstance(text, str) and not text.strip():
            raise UserError(f"prompt {number} is empty; write what is to be seen, or None for no text")
    if encoder is None:
        raise UserError(
            "this model has no text encoder to read prompts with; give it one (text.path of a config, in Python"
            " dataclasses.replace(flex, text=Encoder(path))), or features in place of prompts"
        )
    encoder.check(width)
    try:
        made = dict(zip(texts, features_of(encoder, texts), strict=True))
    finally:
        encoder.free()

    def read(one: Any) -> Any:
        return made[one] if isinstance(one, str) else one

    return [[*map(read, one)] if isinstance(one, (list, tuple)) else one for one in asked]
