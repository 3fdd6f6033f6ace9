"""A model out of whatever holds one: the sections that describe it and its stored tree."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.hub import located
from flexidit_jax.common.tensor_files import SUFFIXES, json_object
from flexidit_jax.common.types import Params
from flexidit_jax.common.weights import full_set, within
from flexidit_jax.convert import pixart_diffusers, pixart_layout
from flexidit_jax.convert.diffusers_layout import STEM, is_diffusers_folder, read_folder, root_of
from flexidit_jax.convert.dit_layout import Heads, read_dit
from flexidit_jax.convert.saved import WEIGHTS, read_saved
from flexidit_jax.convert.weight_files import read_state_dict
from flexidit_jax.models.build import describe
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flexify import flexify


def files_of_model(names: Sequence[str]) -> list[str]:
    """Those of the names of a folder's files that `read_model` reads, of whatever layout it is.

    Raises:
      UserError: none of them.
    """
    for root, others in (("", ()), ("transformer/", ("vae/",))):
        inside = within(names, root)
        if "config.json" in inside and (weights := full_set(inside, STEM)):
            folders = {root: weights, **{other: full_set(within(names, other), STEM) for other in others}}
            return [f"{at}{name}" for at, found in folders.items() if found for name in ("config.json", *found)]
    here = within(names, "")
    config = [name for name in here if name == "config.json"]
    if config and WEIGHTS in here:
        return [*config, WEIGHTS]
    if len(lone := [name for name in here if name.endswith(SUFFIXES)]) == 1:
        return [*config, *lone]
    found = f"{', '.join(here[:5])}{', ...' if len(here) > 5 else ''}" or "nothing"
    choose = "; name one file, as hf:owner/model/FILE" if lone else ""
    raise UserError(
        f"it holds no transformer of diffusers, no saved model and no lone weight file, but {found}{choose}"
    )


def read_model(
    path: str | Path, num_heads: Heads, which: str | None, base: Callable[[], Params | None]
) -> tuple[dict[str, Any], Params]:
    """The `model`, `process` and `codec` sections, and the stored tree (`models.flexify`).

    Weights by themselves do not tell their process: its section is None.

    Args:
      path: see `flexidit_jax.load`; a `Path` is never a name at the hub.
      num_heads: where nothing there tells: a number, or numbers by width.
      which: its `weights`.
      base: reads the stored tree that adapters saved by themselves were made for.

    Raises:
      UserError: nothing there that holds a model, or a file that is damaged or of another layout.
    """
    try:
        return _read(path, num_heads, which, base)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def _read(
    path: str | Path, num_heads: Heads, which: str | None, base: Callable[[], Params | None]
) -> tuple[dict[str, Any], Params]:
    if isinstance(path, str):
        if "://" in path:
            raise UserError(f"{path} is an address; give a path, or a model of the hub as hf:owner/model")
        path = located(path, files_of_model)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a run's folder, a saved model or a DiT weight file")
    if path.is_file() and path.name.startswith(STEM) and is_diffusers_folder(path.parent):
        path = path.parent
    if path.is_dir() and (root := root_of(path)) is not None:
        if pixart_diffusers.is_pixart(json_object(root / "config.json")):
            return _published(*pixart_diffusers.read_folder(root, which), path / "vae")
        return _published(*read_dit(*read_folder(path, which)), path / "vae")
    if (path / WEIGHTS).is_file():
        return read_saved(path, which, base)
    if path.is_dir() and (found := sorted(file.name for file in path.iterdir() if file.name.endswith(SUFFIXES))):
        if len(found) > 1:
            raise UserError(f"{path} holds several weight files; name one, such as {path / found[0]}")
        path = path / found[0]
    if path.is_file():
        state, said = read_state_dict(path, which)
        try:
            return _published(*_network(state, said, num_heads))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    from flexidit_jax.convert.run_weights import load_weights  # orbax, which sampling a saved model does not need

    return load_weights(path, which)


def _network(state: dict[str, np.ndarray], said: Mapping[str, Any], num_heads: Heads) -> tuple[DiT, Params]:
    """The model of a weight file and its plain parameters, of whatever layout."""
    heads, side = said.get("num_heads", num_heads), said.get("input_size")
    scale = said.get("interpolation_scale")
    if pixart_diffusers.NETWORK.mark in state:
        if "config" in said:
            return pixart_diffusers.read_named(state, said["config"], "its config")
        return pixart_layout.read_pixart(pixart_diffusers.published(state), heads, side, scale)
    if pixart_layout.NETWORK.mark in state:
        return pixart_layout.read_pixart(state, heads, side, scale)
    return read_dit(state, heads, side)


def _published(model: DiT, params: Params, vae: Path | None = None) -> tuple[dict[str, Any], Params]:
    """A published model: latents of the SD-VAE, which a diffusers pipeline brings along.

    That of a PixArt by itself is not known: alpha and Sigma have one each.
    """
    where = {"path": str(vae)} if vae is not None and vae.is_dir() else {}
    if where and (vae / "config.json").is_file() and (scale := json_object(vae / "config.json").get("scaling_factor")):
        where["scale"] = scale
    known = where or model.modulation == "block"
    codec = {"name": "sd_vae", **where} if known and model.latent[-1] == 4 else None
    config = {"model": describe(model), "process": None, "codec": codec}
    return config, flexify(params, [model.patch])
