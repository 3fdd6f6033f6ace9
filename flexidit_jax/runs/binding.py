"""What binds a folder: the keys of a config, and the images, that its checkpoints, pictures and latents depend on."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from flexidit_jax.common.config import NO_DEFAULTS, difference, leaves, override, plain
from flexidit_jax.common.errors import UserError

CONFIG_FILE = "config.json"

#: what may change between two starts of one run: nothing here changes what is computed, but for rounding
FREE = {
    *("init_from", "profile_at", "sample", "evaluate", "report", "generate", "export", "search", "encode", "reference"),
    *("decode", "compile"),
}
FREE_WITHIN = {
    "train": {"log_every", "checkpoint_every", "keep", "mesh", "workers", "accumulate", "preview_every", "spike"},
    "model": {"attention", "remat", "unroll", "names"},
    "codec": {"path", "slice", "decode_dtype"},
    "text": {"path", "tokenizer", "batch", "devices"},
    "dataset": {"data_dir", "path", "captions", "validation", "validation_captions", "max_corrupt", "max_pixels"},
}
#: of these, what the bits of drawn images depend on all the same
BINDS_IMAGES = {"decode_dtype"}


def check_config(workdir: Path, config: dict[str, Any], defaults: Mapping[str, Any] = NO_DEFAULTS) -> None:
    """Refuses a folder trained with another config.

    Args:
      config: that of now.
      defaults: what its keys mean where they are left out (see `common.config.difference`).

    Raises:
      UserError: the first key on which they differ, with both values, and the flag that restores the recorded one.
    """
    recorded = recorded_config(workdir)
    differs = difference(_binding(config), _binding(recorded), defaults)
    if differs is not None:
        key, ours, theirs = differs
        said = key in {*defaults, *dict(leaves(config))} and key in {*defaults, *dict(leaves(recorded))}
        raise UserError(
            f"--workdir={workdir} was trained with another config: {key} is {theirs!r} there, {ours!r} here;"
            f" name another --workdir, or {_restoring(key, theirs, config) if said else 'go back to that value'}"
        )


def recorded_config(workdir: Path) -> dict[str, Any]:
    """The config of the last start in a run's folder.

    Raises:
      UserError: it cannot be read, or is none.
    """
    try:
        recorded = json.loads((workdir / CONFIG_FILE).read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{workdir / CONFIG_FILE} cannot be read ({error}); name another --workdir") from None
    if not isinstance(recorded, dict):
        raise UserError(f"{workdir / CONFIG_FILE} holds no config; name another --workdir")
    return recorded


def _restoring(key: str, value: Any, config: dict[str, Any]) -> str:
    """What makes a config say `value` again: the flag, where one does."""
    trial = ConfigDict(config)
    try:
        override(trial, key, str(value))
    except UserError:
        return "go back to that value"
    said = dict(leaves(plain(trial))).get(key)
    return f"go on with {shlex.quote(f'--config.{key}={value}')}" if said == value else "go back to that value"


def check_images(workdir: Path, recorded: str | None, images: str | None) -> None:
    """Refuses to go on with other images, which would have other labels and come in another order.

    Args:
      recorded: the dataset's `fingerprint` when the checkpoint was saved; None: it had none, or was saved before
        there were any.
      images: that of now.

    Raises:
      UserError: they differ.
    """
    if None not in (recorded, images) and recorded != images:
        raise UserError(
            f"--workdir={workdir} was trained on images of other names or captions than the dataset has now; go on with"
            f" the same images, or train on these in another --workdir with --config.init_from={workdir}"
        )


def _binding(config: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if key not in FREE}
    for section, free in FREE_WITHIN.items():
        kept[section] = without(kept.get(section), free)
    return kept


def without(section: Any, keys: set[str]) -> Any:
    """A section, and those within it, without some keys; what is none stays what it is."""
    if not isinstance(section, dict):
        return section
    return {key: without(value, keys) for key, value in section.items() if key not in keys}


def origin(dataset: Mapping[str, Any], name: str, codec: Any) -> dict[str, Any]:
    """What latents depend on, wherever the files are: dataset, codec and the codec's weights.

    Which images a dataset finds there its `fingerprint` tells, where it has one.

    Args:
      dataset: its section; of a `latents` dataset, whose latents they are.
      name, codec: the codec, and its name in a config.

    Raises:
      UserError: the weights are missing.
    """
    kept = {key: value for key, value in asdict(codec).items() if key not in FREE_WITHIN["codec"]}
    return {
        "dataset": without(dataset.get("of", dataset), FREE_WITHIN["dataset"]),
        "codec": {"name": name, **kept, "weights": codec.fingerprint()},
    }
