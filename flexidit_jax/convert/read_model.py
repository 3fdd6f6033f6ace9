"""A model out of whatever holds one: the sections that describe it and its stored tree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import SUFFIXES
from flexidit_jax.common.types import Params
from flexidit_jax.convert.diffusers_layout import STEM, is_diffusers_folder, read_folder
from flexidit_jax.convert.dit_layout import read_dit
from flexidit_jax.convert.saved import WEIGHTS, read_saved
from flexidit_jax.convert.weight_files import read_state_dict
from flexidit_jax.models.build import describe
from flexidit_jax.models.flexify import flexify


def read_model(
    path: Path, num_heads: int | None, which: str | None, base: Callable[[], Params | None]
) -> tuple[dict[str, Any], Params]:
    """The `model`, `process` and `codec` sections, and the stored tree (`models.flexify`).

    Args:
      path, num_heads: see `flexidit_jax.load`.
      which: its `weights`.
      base: reads the stored tree that adapters saved by themselves were made for.

    Raises:
      UserError: nothing there that holds a model, or a file that is damaged or of another layout.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give a run's folder, a saved model or a DiT weight file")
    if path.is_file() and path.name.startswith(STEM) and is_diffusers_folder(path.parent):
        path = path.parent
    if path.is_dir() and is_diffusers_folder(path):
        return _published(*read_folder(path, which), vae=path / "vae")
    if (path / WEIGHTS).is_file():
        return read_saved(path, which, base())
    if path.is_dir() and len(lone := [file for file in path.iterdir() if file.suffix in SUFFIXES]) == 1:
        [path] = lone
    if path.is_file():
        state, said = read_state_dict(path, which)
        return _published(state, said.get("num_heads", num_heads), said.get("input_size"))
    from flexidit_jax.convert.run_weights import load_weights  # orbax, which sampling a saved model does not need

    return load_weights(path, which)


def _published(
    state: dict[str, np.ndarray], num_heads: int | None, input_size: int | None = None, vae: Path | None = None
) -> tuple[dict[str, Any], Params]:
    """A published DiT: latents of the SD-VAE, which a diffusers pipeline brings along."""
    model, params = read_dit(state, num_heads, input_size)
    where = {"path": str(vae)} if vae is not None and vae.is_dir() else {}
    codec = {"name": "sd_vae", **where} if model.latent[-1] == 4 else None
    config = {"model": describe(model), "process": {"name": "gaussian"}, "codec": codec}
    return config, flexify(params, [model.patch])
