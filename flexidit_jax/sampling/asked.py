"""What samples are asked for, as rows of a condition: prompts are read, and each is repeated for its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from flexidit_jax.common.arguments import typed
from flexidit_jax.common.build import positive
from flexidit_jax.common.errors import UserError
from flexidit_jax.models.conditioning.condition import Condition, negatives, parsed, size, take
from flexidit_jax.sampling.sampler import Sampler, Specs
from flexidit_jax.sampling.spec import SampleSpec
from flexidit_jax.text.prompts import check_prompts, with_features


def conditions(
    sampler: Sampler, encoder: Any, asked: Any, specs: Specs, negative: Any, images: int
) -> tuple[Condition, Specs, Condition | None]:
    """The condition of every sample, the specs as they are, and what guidance leads away from: B rows each.

    Args:
      encoder: of texts (`text`); None where there is none. It is read when all else is known to fit, and its memory
        is given back.
      asked, specs, negative: see `Sampler.start`; a negative is one for all, or one for each that is asked for.
      images: of each that is asked for, one after the other.

    Raises:
      UserError: what this model cannot do, or the encoder does not read.
    """
    images = typed(images, "int", "images_per_prompt")
    positive("sample", images_per_prompt=images)
    for one in specs if isinstance(specs, Sequence) else [specs]:
        if isinstance(one, SampleSpec) and one.latency_ms is None:  # which would be timed
            sampler.plan(one)
            sampler.check_null(one, None, np.array([negative is None]))
    conditioner = sampler.engine.model.conditioner
    if (width := getattr(conditioner, "features", None)) is not None:
        asked, negative = with_features(encoder, width, asked, negative)
    cond = parsed(conditioner, asked)
    away = negatives(conditioner, negative, size(cond))
    rows = np.repeat(np.arange(size(cond)), images)
    return take(cond, rows), specs, None if away is None else take(away, rows)


def features(conditioner: Any, encoder: Any, prompts: Sequence[str]) -> list[np.ndarray]:
    """Texts as a model reads them, float32 [m, k] each; the encoder's memory is given back.

    Raises:
      UserError: a model of something else, no encoder, or what that does not read.
    """
    if not hasattr(conditioner, "features"):
        raise UserError("this model is not conditioned on texts, and has no features of prompts")
    return with_features(encoder, conditioner.features, check_prompts(prompts))[0]


def fitting(encoder: Any, conditioner: Any) -> Any:
    """An encoder whose texts are as long as a model reads, where it leaves that open.

    Raises:
      UserError: a model of something else than texts, or of shorter ones.
    """
    if encoder is None:
        return None
    if not hasattr(conditioner, "features"):
        raise UserError("this model is not conditioned on texts; leave its text encoder out")
    if encoder.length is None:
        return replace(encoder, length=conditioner.length)
    if encoder.length > conditioner.length:
        raise UserError(f"text.length={encoder.length}, and the model reads {conditioner.length} tokens of a text")
    return encoder
