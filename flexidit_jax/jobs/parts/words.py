"""Which words of the `sample` section make a plan."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from flexidit_jax.api import FlexiDiT

_OF_PLAN = set(inspect.signature(FlexiDiT.plan).parameters) - {"self", "batch"}


def plan_words(words: Mapping[str, Any]) -> dict[str, Any]:
    """Of the keywords of `FlexiDiT.sample`, those that `FlexiDiT.plan` takes too, the batch apart."""
    return {key: value for key, value in words.items() if key in _OF_PLAN}
