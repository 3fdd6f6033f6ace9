"""Every key of a config with what it means, in the words of whoever reads it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ml_collections import ConfigDict

from flexidit_jax.common import build
from flexidit_jax.common.config import leaves
from flexidit_jax.common.docstrings import opening, sentences
from flexidit_jax.common.errors import UserError


def explained(config: ConfigDict, check: Callable[[ConfigDict], Any]) -> tuple[dict[str, str], UserError | None]:
    """A sentence for every key of a config, and why the config is refused.

    A key within the value of another, such as `train.stages[1].times.4`, has the sentence of that other one.

    Args:
      check: builds or checks what the config says; see `build.readers_noted`.

    Returns:
      Sentences by key, empty where nobody says anything; None where nothing is refused.
    """
    refused = None
    with build.readers_noted() as readers:
        try:
            check(config)
        except UserError as error:
            refused = error
    said: dict[str, str] = {}
    sections = {"", *(where for where, _ in readers)}
    for where, maker in readers:
        own = {"name": opening(maker.__doc__)} if isinstance(maker, type) else {}  # of a part: what it is
        prefix = "" if where == "config" else f"{where}."
        said |= {f"{prefix}{key}": sentence for key, sentence in (own | sentences(maker)).items()}

    def of(key: str) -> str:
        while key not in said and (around := _around(key)) not in sections:
            key = around
        return said.get(key, "")

    return {key: of(key) for key, _ in leaves(config)}, refused


def _around(key: str) -> str:
    """`train.stages[1]` of `train.stages[1].times`, and `train.stages` of that."""
    return key[: max(key.rfind("."), key.rfind("["), 0)]
