"""A model out of whatever holds one: the sections that describe it and its stored tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.hub import located, pinned
from flexidit_jax.common.tensor_files import SUFFIXES, json_object
from flexidit_jax.common.types import Params
from flexidit_jax.common.weights import full_set, within
from flexidit_jax.convert import pixart_diffusers, pixart_layout, wan_diffusers, wan_layout, wan_names, wan_pipeline
from flexidit_jax.convert.diffusers_layout import STEM, is_diffusers_folder, read_folder, root_of
from flexidit_jax.convert.dit_layout import StateDict, read_dit
from flexidit_jax.convert.lora_file import OWN, is_lora_file, read_lora_file
from flexidit_jax.convert.peft_layout import FILES as ADAPTERS
from flexidit_jax.convert.peft_layout import is_peft, read_peft
from flexidit_jax.convert.pipeline import FILES
from flexidit_jax.convert.pixart_pipeline import beside
from flexidit_jax.convert.said import Said
from flexidit_jax.convert.saved import WEIGHTS, Lent, check_tree, lent_to, read_saved
from flexidit_jax.convert.weight_files import read_state_dict
from flexidit_jax.models.build import describe
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flexify import flexify


def files_of_model(names: Sequence[str]) -> list[str]:
    """Those of the names of a folder's files that `read_model` reads, of whatever layout it is.

    Raises:
      UserError: none of them.
    """
    if any(name.startswith(f"{wan_pipeline.SECOND}/") for name in names):
        raise UserError(f"it {wan_pipeline.TWO}")
    for root, others in (("", ()), ("transformer/", ("vae/",))):
        inside = within(names, root)
        if "config.json" in inside and (weights := full_set(inside, STEM)):
            folders = {root: weights, **{other: full_set(within(names, other), STEM) for other in others}}
            return [
                *(file for file in (FILES if root else (wan_pipeline.VAE,)) if file in names),
                *(f"{at}{name}" for at, found in folders.items() if found for name in ("config.json", *found)),
            ]
    here = within(names, "")
    if ADAPTERS[0] in here:
        return [name for name in here if name in ADAPTERS]
    config = [name for name in here if name == "config.json"]
    if config and WEIGHTS in here:
        return [*config, WEIGHTS]
    if len(lone := _models(here)) == 1:
        return [*config, *(name for name in here if name in (lone[0], str(Path(lone[0]).with_suffix(OWN))))]
    found = f"{', '.join(here[:5])}{', ...' if len(here) > 5 else ''}" or "nothing"
    choose = "; name one file, as hf:owner/model/FILE" if lone else ""
    raise UserError(
        f"it holds no transformer of diffusers, no saved model and no lone weight file, but {found}{choose}"
    )


def read_model(path: str | Path, said: Said, which: str | None, base: Lent) -> tuple[dict[str, Any], Params]:
    """The `model`, `process` and `codec` sections, of a pipeline also `text`, and the stored tree (`models.flexify`).

    Weights by themselves do not tell their process: its section is None.

    Args:
      path: see `flexidit_jax.load`; a `Path` is never a name at the hub.
      said: where nothing there tells.
      which: its `weights`.
      base: reads the model that adapters by themselves were made for.

    Raises:
      UserError: nothing there that holds a model, or a file that is damaged or of another layout.
    """
    try:
        return _read(path, said, which, base)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def _read(path: str | Path, said: Said, which: str | None, base: Lent) -> tuple[dict[str, Any], Params]:
    name = str(path)
    if isinstance(path, str):
        if "://" in path:
            raise UserError(f"{path} is an address; give a path, or a model of the hub as hf:owner/model")
        path = located(path, files_of_model)
        name = pinned(name)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a run's folder, a saved model or a DiT weight file")
    if path.is_file() and path.name.startswith(STEM) and is_diffusers_folder(path.parent):
        path = path.parent
    if path.is_dir() and (root := root_of(path)) is not None:
        if wan_diffusers.is_wan(json_object(root / "config.json")):
            wan_pipeline.check_single(root, path)
            model, params = wan_diffusers.read_folder(root, which, _sizes(said))
            config = {"model": describe(model), "process": None, **wan_pipeline.beside(path, name)}
            return config, flexify(params, [model.patch])
        if pixart_diffusers.is_pixart(json_object(root / "config.json")):
            found = beside(path, name)
            null = "empty" if said.null is None and found.text is not None else said.null
            said = replace(said, null=null, length=said.length or found.length)
            config, params = _published(*pixart_diffusers.read_folder(root, which, said), path / "vae")
            return {**config, "process": found.process, "text": found.text}, params
        return _published(*read_dit(*read_folder(path, which)), path / "vae")
    if is_peft(path):
        return _adapted(path, read_peft, base)
    if (path / WEIGHTS).is_file():
        return read_saved(path, which, base)
    if path.is_dir() and (found := _models(file.name for file in path.iterdir())):
        if len(found) > 1:
            raise UserError(f"{path} holds several weight files; name one, such as {path / found[0]}")
        path = path / found[0]
    if is_lora_file(path):
        return _adapted(path, read_lora_file, base)
    if path.is_file():
        state, tells = read_state_dict(path, which)
        try:
            return _published(*_network(state, tells, said))
        except UserError as error:
            raise UserError(str(error) if str(path) in str(error) else f"{path}: {error}") from None
    from flexidit_jax.convert.run_weights import load_weights  # orbax, which sampling a saved model does not need

    return load_weights(path, which)


def _models(names: Iterable[str]) -> list[str]:
    """Those of the names of files that hold a model, or adapters, by themselves."""
    return sorted(name for name in names if name.endswith(SUFFIXES) and not name.endswith(OWN))


def _adapted(path: Path, read: Callable[[Path, Params], Params], base: Lent) -> tuple[dict[str, Any], Params]:
    """The model that adapters were made for, with them."""
    config, lent = lent_to(path, base)
    params = read(path, lent)
    check_tree(config, params, path)
    return {**config, "base": str(path)}, params


def _network(state: StateDict, tells: Mapping[str, Any], said: Said) -> tuple[DiT, Params]:
    """The model of a weight file and its plain parameters, of whatever layout; what the file tells holds."""
    if pixart_diffusers.NETWORK.mark in state and "config" in tells:
        return pixart_diffusers.read_named(state, tells["config"], "its config", said)
    is_wan = any(network.mark in state for network in wan_names.NETWORKS)
    if is_wan and "config" in tells:
        return wan_diffusers.read_named(state, tells["config"], "its config", _sizes(said))
    said = replace(said, **{key: value for key, value in tells.items() if key != "config"})
    if is_wan:
        return wan_layout.read_wan(state, _sizes(said))
    if pixart_diffusers.NETWORK.mark in state:
        return pixart_layout.read_pixart(pixart_diffusers.published(state), said)
    if pixart_layout.NETWORK.mark in state:
        return pixart_layout.read_pixart(state, said)
    return read_dit(state, said.num_heads, said.input_size)


def _sizes(said: Said) -> wan_layout.Sizes:
    """Of a Wan, what is said."""
    return wan_layout.Sizes(said.num_heads, length=said.length or wan_layout.LENGTH)


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
    if model.positions == "rope":
        config["assumed"] = {"name": "flow", "shift": wan_pipeline.SHIFT}
    return config, flexify(params, [model.patch])
