"""Prompts as UMT5 reads them, in many languages, which is what Wan 2.1 is told."""

from __future__ import annotations

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from flexidit_jax.common.errors import UserError
from flexidit_jax.text import t5


def mended(prompt: str) -> str:
    """As Wan 2.1 mends a prompt: broken Unicode, entities of HTML, spaces.

    Raises:
      UserError: no ftfy here.
    """
    try:
        import ftfy
    except ImportError:
        raise UserError("text.clean='wan' mends prompts by ftfy (pip install -e '.[text]')") from None
    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())


@dataclass(frozen=True)
class Encoder(t5.Encoder):
    """UMT5 with its tokenizer; see `text.t5.Encoder`, of which only these are others.

    Attributes:
      path: of the network.
      clean: "wan" mends prompts as Wan does, "none" (or None) reads them as they are.
    """

    cleaning: ClassVar[Mapping[str, Callable[[str], str]]] = {"wan": mended, "none": lambda prompt: prompt}
    own_tables: ClassVar[bool] = True
    spare: ClassVar[int] = 384
    path: str = "./weights/umt5-xxl"
    clean: str | None = "wan"
