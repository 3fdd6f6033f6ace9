"""What a caller says of a model: what its file may not tell, and what has to agree where it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from flexidit_jax.common.arguments import path_of, shown, typed
from flexidit_jax.common.build import Section
from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.convert.dit_layout import Heads
from flexidit_jax.models.conditioning.text import MASKS
from flexidit_jax.models.dit import DiT

#: of parts that are named by their paths alone, by whether they are of a Wan: the SD-VAE takes its scale from the
#: config.json there
PARTS = {
    False: {"codec": {"name": "sd_vae", "scale": None}, "text": {"name": "t5"}},
    True: {"codec": {"name": "wan_vae"}, "text": {"name": "umt5"}},
}
NULLS = ("stored", "empty", "none")


@dataclass(frozen=True)
class Said:
    """Of a model whose file does not tell; None where nothing is said.

    Attributes:
      num_heads: of attention; or numbers by width.
      input_size: side of the latent.
      interpolation_scale: of a PixArt's positions: side of the latent in patches over their span.
      length: tokens of the longest text.
      null: what stands for no text: "stored", features that the file holds; "empty", those of an empty text; "none".
      null_mask: which of these count, "caption" or "own" (`models.conditioning.text`).
    """

    num_heads: Heads = None
    input_size: int | None = None
    interpolation_scale: float | None = None
    length: int | None = None
    null: str | None = None
    null_mask: str | None = None

    def __post_init__(self) -> None:
        for key, known in (("null", NULLS), ("null_mask", MASKS)):
            if (value := getattr(self, key)) is not None and value not in known:
                raise UserError(f"no {key} {value!r}{nearest(str(value), known)}")
        for key in ("input_size", "interpolation_scale", "length"):
            if (value := getattr(self, key)) is not None and value <= 0:
                raise UserError(f"{key} must be positive, got {value!r}")

    @classmethod
    def typed(cls, *values: Any) -> Said:
        """Of what a caller handed in, in the order of the attributes.

        Raises:
          UserError: a value of another type.
        """
        kinds = ("int", "int", "float", "int", "str", "str")
        named = zip(fields(cls), kinds, values, strict=True)
        return cls(*(typed(value, f"{kind} | None", field.name) for field, kind, value in named))

    def check(self, path: str | Path, model: DiT) -> None:
        """Refuses what contradicts the model that was read.

        Raises:
          UserError: the first that does, with what the model has.
        """
        text = model.conditioner if hasattr(model.conditioner, "null_length") else None
        side = model.latent[1]
        there = {
            "num_heads": (model.num_heads, "{} heads"),
            "input_size": (side, "latents of side {}"),
            "interpolation_scale": (model.span and side / model.base_patch[1] / model.span, "interpolation scale {:g}"),
            "length": (text and text.length, "texts of {} tokens"),
            "null": (text and self.null, ""),
            "null_mask": (text and (text.null_mask if text.null_length else self.null_mask), "null_mask {!r}"),
        }
        if self.null == "stored" and text and not text.null_length:
            raise UserError(f"{path} holds nothing that stands for no text; null='empty' reads an empty text")
        for field in fields(self):
            (value, words), said = there[field.name], getattr(self, field.name)
            if said is not None and said != value:
                has = f"a model of {words.format(value)}" if value is not None else "no PixArt"
                raise UserError(f"{path} is {has}, but {field.name}={shown(said)}; leave that out")


def apart(codec: str | Path | Section | None, text: str | Path | Section | None, model: DiT) -> dict[str, Section]:
    """The sections of those parts that a caller names apart from the model, by their paths or as sections.

    Args:
      codec, text: the parts; None where the model's own are meant.
      model: which tells of what kind they are.

    Raises:
      UserError: neither a path nor a section.
    """
    sections, of_wan = {}, model.positions == "rope" and not getattr(model.conditioner, "mask", True)
    for key, asked in (("codec", codec), ("text", text)):
        if isinstance(asked, Mapping):
            sections[key] = dict(asked)
        elif asked is not None:
            path_of(asked, key)
            sections[key] = {**PARTS[of_wan][key], "path": str(asked)}
    return sections
