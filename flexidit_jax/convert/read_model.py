"""A model out of whatever holds one: the sections that describe it and its stored tree."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Params
from flexidit_jax.convert.diffusers_layout import is_diffusers_folder, read_folder
from flexidit_jax.convert.dit_layout import read_dit
from flexidit_jax.convert.saved import WEIGHTS, read_saved
from flexidit_jax.convert.weight_files import WEIGHT_SUFFIXES, read_state_dict
from flexidit_jax.models.build import describe
from flexidit_jax.models.flexify import flexify


def read_model(path: Path, num_heads: int | None, base: Callable[[], Params | None]) -> tuple[dict[str, Any], Params]:
    """The `model`, `process` and `codec` sections, and the stored tree (`models.flexify`).

    Weights by themselves do not tell their process: its section is None.

    Args:
      path, num_heads: see `flexidit_jax.load`.
      base: reads the stored tree that adapters saved by themselves were made for.

    Raises:
      UserError: nothing there that holds a model, or a file that is damaged or of another layout.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist; give a run's folder, a saved model or a DiT weight file")
    if path.is_file():
        if path.suffix not in WEIGHT_SUFFIXES:
            raise UserError(f"{path} is not a weight file; known endings: {', '.join(WEIGHT_SUFFIXES)}")
        state, heads = read_state_dict(path)
        return _published(state, num_heads if num_heads is not None else heads)
    if is_diffusers_folder(path):
        return _published(*read_folder(path), vae=path / "vae")
    if (path / WEIGHTS).is_file():
        return read_saved(path, base())
    from flexidit_jax.convert.run_weights import load_weights  # orbax, which sampling a saved model does not need

    return load_weights(path)


def _published(
    state: dict[str, np.ndarray], num_heads: int | None, vae: Path | None = None
) -> tuple[dict[str, Any], Params]:
    """A published DiT: latents of the SD-VAE, which a diffusers pipeline brings along."""
    model, params = read_dit(state, num_heads)
    where = {"path": str(vae)} if vae is not None and vae.is_dir() else {}
    codec = {"name": "sd_vae", **where} if model.latent[-1] == 4 else None
    config = {"model": describe(model), "process": None, "codec": codec}
    return config, flexify(params, [model.patch])
