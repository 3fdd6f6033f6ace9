"""`--mode=convert`: any model `load` reads -> a published layout, or a folder of our own.

With the key `features` the weights of a feature extractor -> one .safetensors file, which no score needs more than.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flexidit_jax.common import build
from flexidit_jax.common.build import Section
from flexidit_jax.common.config import plain
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import folder_named
from flexidit_jax.loading import load

FLAGS = {"out": "convert.target"}
EXTRACTORS = "flexidit_jax.metrics.features"
#: endings of the files that a layout writes; none where that is a folder
LAYOUTS = {
    "published": (".safetensors", ".pt", ".pth"),
    "diffusers": (),
    "flexidit_jax": (),
    "peft": (),
    "lora": (".safetensors",),
}
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
    default = None if section.get("features") else str(workdir)
    return {**section, "source": section.get("source") or default}


def _convert(
    source: str | None,
    target: str | None = None,
    layout: str = "published",
    patch: int | str | None = None,
    patches: str | tuple[int | str, ...] | None = None,
    num_heads: int | None = None,
    process: str | Section | None = None,
    weights: str | None = None,
    overwrite: bool = False,
    features: str | None = None,
    base: str | None = None,
    input_size: int | None = None,
    interpolation_scale: float | None = None,
) -> int:
    """Loads, flexifies when `patches` is given, writes.

    Args:
      source: anything `load` reads; the workdir by default.
      target: a `.safetensors` or `.pt` file (published, lora), or a folder (diffusers, flexidit_jax, peft).
      layout: "published", "diffusers", "flexidit_jax", or the adapters of a mode by themselves, "peft" or "lora".
      patch: the mode to export; the most powerful by default.
      patches: make the model flexible first (for layout flexidit_jax), such as 2,4 or 1x2x2,2x2x2.
      num_heads: of a DiT weight file that does not tell.
      process: of such a file, or of a diffusers folder: "sit", or a section; "gaussian" by default.
      weights: "ema" or "raw", where the source has both (see `flexidit_jax.load`).
      overwrite: replace another model that is there.
      features: "inception", "dinov2" or "clip": the source holds the weights of this extractor, and no model.
      base: of adapters by themselves, the model that they were made for.
      input_size, interpolation_scale: of a weight file without pos_embed (see `flexidit_jax.load`).
    """
    says = {"process": process, "weights": weights, "base": base}
    says |= {"input_size": input_size, "interpolation_scale": interpolation_scale}
    if features is not None:
        of_models = {"patch": patch, "patches": patches, **says}
        return _convert_features(features, source, target, num_heads, overwrite, of_models)
    if layout not in LAYOUTS:
        raise UserError(f"convert.layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
    if target is None:
        raise UserError("convert.target is not set; name the file or folder to write, also as --out")
    path = folder_named(target, "convert.target")
    endings, is_file = LAYOUTS[layout], path.suffix in LAYOUTS["published"]
    if is_file != bool(endings) or (is_file and path.suffix not in endings):
        wanted = f"a {' or '.join(endings[:2])} file" if endings else "a folder"
        raise UserError(f"convert.target={target} does not suit convert.layout={layout}, which writes {wanted}")
    model = load(source, num_heads=num_heads, **says)
    if patches is not None:
        model = model.flexify(patches.split(",") if isinstance(patches, str) else patches)
    if layout == "flexidit_jax":
        model.save(path, overwrite=overwrite)
    else:
        model.export(path, patch, overwrite, adapters_only=layout in ("peft", "lora"))
    print(f"read: {source}: {model!r}")
    print(f"written: {path}")
    return 0


def _convert_features(
    name: str,
    source: str | None,
    target: str | None,
    num_heads: int | None,
    overwrite: bool,
    of_models: Mapping[str, Any],
) -> int:
    """Reads the weights of an extractor, which refuses what is none, and writes them as one file."""
    maker = build.find(EXTRACTORS, name, "Features")
    if not hasattr(maker, "save"):
        raise UserError(f"convert.features={name} is fitted on data, and has no weights to convert")
    if said := [key for key, value in of_models.items() if value is not None]:
        raise UserError(f"convert.{said[0]} is for models, not for convert.features={name}; leave it out")
    for key, value in (("source", source), ("target", target)):
        if value is None:
            raise UserError(f"convert.{key} is not set; name the file to {'read' if key == 'source' else 'write'}")
    heads = {} if num_heads is None else {"num_heads": num_heads}
    build.check_owner(EXTRACTORS, "Features", name, heads, "convert")
    extractor = maker(path=source, **heads)
    extractor.save(target, overwrite)
    print(f"read: {source}: SHA-256 {extractor.sha256}")
    print(f"written: {target}")
    return 0
