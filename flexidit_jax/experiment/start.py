"""The model a job begins from: one to sample from, or the first parameters of a training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common import build
from flexidit_jax.common.config import difference
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.hub import pinned
from flexidit_jax.common.notes import note
from flexidit_jax.common.trees import merge
from flexidit_jax.common.types import Params, Patch, short_patch_name
from flexidit_jax.convert.read_model import read_model
from flexidit_jax.convert.said import Said
from flexidit_jax.convert.which_process import process_of
from flexidit_jax.experiment.experiment import Experiment
from flexidit_jax.experiment.typed import was_typed
from flexidit_jax.loading import load
from flexidit_jax.models.build import MACHINE, describe, init
from flexidit_jax.models.flexify import adapter_rank, at
from flexidit_jax.models.fold import folded
from flexidit_jax.runs.binding import FREE_WITHIN, check_config, recorded_config, without
from flexidit_jax.runs.recovery import has_checkpoint
from flexidit_jax.sampling.asked import fitting
from flexidit_jax.sampling.empty_text import completed, with_empty_text
from flexidit_jax.training.sharding import made, placed


def trained_model(experiment: Experiment, workdir: Path) -> FlexiDiT:
    """The newest checkpoint of `workdir`; without one, the model of `init_from`.

    What the config says of the machine (attention, where the codec's files are) holds over what was
    recorded.

    Raises:
      UserError: neither is there, or the folder was trained with another config.
    """
    if experiment.init_from is not None and not _has_own(workdir):
        flex = load_source(experiment)
    else:
        flex = load(workdir)
        check_config(workdir, experiment.raw, experiment.defaults)
    machine = {key: getattr(experiment.model, key) for key in MACHINE}
    text = experiment.text or flex.text
    return dataclasses.replace(flex, model=flex.model.clone(**machine), codec=experiment.codec, text=text)


def training_start(experiment: Experiment, workdir: Path) -> Callable[[Mesh], Params] | None:
    """Makes the parameters that a training in `workdir` begins with; None where it goes on from a checkpoint.

    Raises:
      UserError: see `first_params`.
    """
    return None if _has_own(workdir) else first_params(experiment)


def _has_own(workdir: Path) -> bool:
    """Whether a folder has weights of its own; who typed another source is told that it is not read."""
    own = has_checkpoint(workdir)
    if own and was_typed("init_from"):
        note(f"{workdir} has weights of its own; init_from is not read")
    return own


def load_source(experiment: Experiment) -> FlexiDiT:
    """The model of `init_from`; of what it does not tell the config's is taken."""
    source = experiment.init_from
    said = _said(experiment)
    config, params = read_model(source, said, None, lambda: None)
    ours, theirs = (one["conditioner"]["name"] for one in (describe(experiment.model), config["model"]))
    if ours != theirs:
        raise UserError(f"this config is for a model of {ours}, and init_from={source} is one of {theirs}")
    text = None if experiment.text is None else build.describe(experiment.text)
    config, params = completed(config, params, said, text)
    asked = build.describe(experiment.process) if config["process"] is None else None
    flex = FlexiDiT.of(config, params, process_of(Path(source), config["process"], asked))
    return flex.sized(experiment.model.latent) if "frames" in flex.model.free else flex  # as no file tells


def _said(experiment: Experiment) -> Said:
    """What the config says of a model whose file does not tell."""
    ours, text = experiment.model, experiment.model.conditioner
    side = ours.latent[1]
    return Said(
        num_heads={ours.width: ours.num_heads},
        input_size=side,
        interpolation_scale=ours.span and side / ours.base_patch[1] / ours.span,
        length=getattr(text, "length", None),
        null_mask=text.null_mask if getattr(text, "null_length", 0) else None,
    )


def recorded(experiment: Experiment, workdir: Path) -> dict[str, Any]:
    """The config as a run records it: names at the hub with the commit that was fetched, so that it stays known.

    Args:
      experiment: the config, whose models have been read where this start reads them.
      workdir: what it recorded before stays for a name that this start had no need to fetch.
    """
    try:
        before = recorded_config(workdir)
    except UserError:
        before = {}
    raw = dict(experiment.raw)
    if experiment.init_from is not None:
        raw["init_from"] = pinned(experiment.init_from, before.get("init_from"))
    for part in ("codec", "text"):
        section, there = raw.get(part) or {}, before.get(part)
        if isinstance(section.get("path"), str):
            earlier = there.get("path") if isinstance(there, dict) else None
            raw[part] = {**section, "path": pinned(section["path"], earlier)}
    return raw


def first_params(experiment: Experiment) -> Callable[[Mesh], Params]:
    """Makes the parameters to begin with, once: those of `init_from`, or random plain ones.

    Of a model that has the modes of the first stage, adapted alike, they are its stored tree with all that the modes
    have learned; of another flexible one its powerful mode as a plain DiT, which is said. They are made split over the
    mesh, since the state they become may not fit one device.

    Raises:
      UserError: `init_from` holds another model, or is None where the first stage adapts one.
    """
    source, stage = experiment.init_from, experiment.train.stages[0]
    rank = stage.adapters
    random = partial(init, experiment.model, jax.random.key(experiment.seed))
    if source is None and rank is not None:
        raise UserError(
            f"train.stages[0].adapters={rank} adapts a pre-trained model, but init_from is None, so it would learn from"
            " random weights; set init_from to such a model, or put a stage that trains all weights before it"
        )
    shapes = jax.eval_shape(random)  # which also refuses what this machine does not run
    text = experiment.model.conditioner
    if getattr(text, "null_length", None) == 0 and text.drop_rate > 0:
        raise UserError(
            f"model.conditioner.drop_rate={text.drop_rate} trains without a text, and null_length=0 has nothing that"
            " stands for none; set null_length (1 and null_mask='own': features of an empty text), or drop_rate=0"
        )
    if source is None:
        null = _empty_text(experiment)
        return lambda mesh: made(lambda: merge(random(), null), mesh)
    loaded = load_source(experiment)
    plain = folded(at(loaded.params, loaded.patches[0]))
    same_shapes = jax.tree.map(jnp.shape, plain) == jax.tree.map(jnp.shape, shapes)
    if not same_shapes or _meaning(loaded) != _meaning(experiment):
        how = _differs(experiment, loaded)
        raise UserError(f"init_from={source} holds {loaded!r}, which is not the model of this config: {how}")
    flexible, own = len(loaded.patches) > 1, adapter_rank(loaded.params)
    goes_on = flexible and (loaded.patches, own) == (stage.patches, rank)
    if flexible and not goes_on:
        note(
            f"init_from={source} has {_modes(loaded.patches, own)}, and the first stage trains"
            f" {_modes(stage.patches, rank)}: it begins with patch {short_patch_name(loaded.patches[0])} alone, and"
            " what the other modes learned is left out"
        )
    held = [jax.device_get(loaded.params if goes_on else plain)]
    return lambda mesh: placed(held.pop(), mesh)  # the only reference: none of it outlives the first state


def _empty_text(experiment: Experiment) -> Params:
    """What stands for no text in a model that begins from scratch, where its encoder is there: "" encoded.

    Raises:
      UserError: it has another number of tokens than the model has room for; or see `with_empty_text`.
    """
    conditioner = experiment.model.conditioner
    if experiment.text is None or not conditioner.null_length:
        return {}
    encoder, config = fitting(experiment.text, conditioner), {"model": describe(experiment.model)}
    encoder.check(conditioner.features)
    config, params = with_empty_text(config, {}, encoder, conditioner.null_mask)
    if (found := config["model"]["conditioner"]["null_length"]) != conditioner.null_length:
        raise UserError(
            f"model.conditioner.null_length={conditioner.null_length}, and the encoder makes {found} token(s) of an"
            " empty text; set it to that"
        )
    return params["trunk"]


def _meaning(one: FlexiDiT | Experiment) -> tuple[Any, ...]:
    """What the same parameters mean something else without."""
    model = one.model
    null_mask = getattr(model.conditioner, "null_mask", None)
    return model.num_heads, model.base_patch, model.modulation, model.span, null_mask, one.process


def _modes(patches: Sequence[Patch], rank: int | None) -> str:
    """In words."""
    adapted = "" if rank is None else f" (adapters of rank {rank})"
    return f"{'modes' if len(patches) > 1 else 'mode'} {', '.join(map(short_patch_name, patches))}{adapted}"


#: what parameters serve alike, whatever a config says of it
_ANY = FREE_WITHIN["model"] | {"dtype", "residual", "drop_rate", "names"}


def _differs(experiment: Experiment, loaded: FlexiDiT) -> str:
    """The first key on which a config and a model of another one differ, with both values."""
    any_size = {"latent"} if loaded.model.latent[-1] == experiment.model.latent[-1] else set()  # of its channels alone
    ours, theirs = (
        {"model": without(describe(one.model), _ANY | any_size), "process": build.describe(one.process)}
        for one in (experiment, loaded)
    )
    key, here, there = difference(ours, theirs)
    return f"{key} is {there!r} there, {here!r} here"
