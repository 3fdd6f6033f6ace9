"""`--mode=convert`: any model `load` reads -> a published layout, or a folder of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flexidit_jax.api import load
from flexidit_jax.common import build
from flexidit_jax.common.build import Section
from flexidit_jax.common.config import plain
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import folder_named

FLAGS = {"out": "convert.target"}
LAYOUTS = ("published", "diffusers", "flexidit_jax")
#: of what may change between two starts, the sections and keys that it reads
READS = ("convert",)


def run(config: ConfigDict, workdir: Path) -> int:
    """Converts `config.convert.source`, by default the run in `workdir`."""
    return build.call(_convert, _section(config, workdir), "convert")


def check(config: ConfigDict) -> None:
    """Refuses keys and values before anything is read."""
    build.check(_convert, _section(config, Path()), "convert")


def _section(config: ConfigDict, workdir: Path) -> dict[str, Any]:
    section = plain(config).get("convert")
    if section is None:
        raise UserError("this config has no convert section; use --config=configs/convert.py")
    return {**section, "source": section.get("source") or str(workdir)}


def _convert(
    source: str,
    target: str | None = None,
    layout: str = "published",
    patch: int | str | None = None,
    patches: tuple[int, ...] | None = None,
    num_heads: int | None = None,
    process: str | Section | None = None,
    weights: str | None = None,
    overwrite: bool = False,
) -> int:
    """Loads, flexifies when `patches` is given, writes.

    Args:
      source: anything `load` reads; the workdir by default.
      target: a `.safetensors` or `.pt` file (published), or a folder (diffusers, flexidit_jax).
      layout: "published", "diffusers" or "flexidit_jax".
      patch: the mode to export; the most powerful by default.
      patches: make the model flexible first (for layout flexidit_jax).
      num_heads: of a DiT weight file that does not tell.
      process: of such a file, or of a diffusers folder: "sit", or a section; "gaussian" by default.
      weights: "ema" or "raw", where the source has both (see `flexidit_jax.load`).
      overwrite: replace another model that is there.
    """
    if layout not in LAYOUTS:
        raise UserError(f"convert.layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if target is None:
        raise UserError("convert.target is not set; name the file or folder to write, also as --out")
    path = folder_named(target, "convert.target")
    is_file = path.suffix in (".safetensors", ".pt", ".pth")
    if is_file != (layout == "published"):
        wanted = "a .safetensors or .pt file" if layout == "published" else "a folder"
        raise UserError(f"convert.target={target} does not suit convert.layout={layout}, which writes {wanted}")
    model = load(source, num_heads=num_heads, process=process, weights=weights)
    if patches is not None:
        model = model.flexify(patches)
    if layout == "flexidit_jax":
        model.save(path, overwrite=overwrite)
    else:
        model.export(path, patch, overwrite)
    print(f"read: {source}: {model!r}")
    print(f"written: {path}")
    return 0
