"""The model a job begins from: one to sample from, or the first parameters of a training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from flexidit_jax.api import FlexiDiT, load
from flexidit_jax.common import build
from flexidit_jax.common.config import difference
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Params
from flexidit_jax.experiment.experiment import Experiment
from flexidit_jax.models.build import describe, init
from flexidit_jax.models.flexify import at
from flexidit_jax.models.fold import folded
from flexidit_jax.runs.binding import FREE_WITHIN, check_config, without
from flexidit_jax.runs.recovery import has_checkpoint
from flexidit_jax.training.sharding import made, placed


def trained_model(experiment: Experiment, workdir: Path) -> FlexiDiT:
    """The newest checkpoint of `workdir`; without one, the model of `init_from`.

    What the config says of the machine (attention, where the codec's files are) holds over what was
    recorded.

    Raises:
      UserError: neither is there, or the folder was trained with another config.
    """
    if experiment.init_from is not None and not has_checkpoint(workdir):
        flex = load_source(experiment)
    else:
        flex = load(workdir)
        check_config(workdir, experiment.raw, experiment.defaults)
    machine = {key: getattr(experiment.model, key) for key in ("attention", "remat", "unroll")}
    return dataclasses.replace(flex, model=flex.model.clone(**machine), codec=experiment.codec)


def load_source(experiment: Experiment) -> FlexiDiT:
    """The model of `init_from`; a weight file of the config's width has the config's heads."""
    source, ours = Path(experiment.init_from), experiment.model
    if source.is_dir():
        return load(source)
    flex = load(source, ours.num_heads)
    return flex if flex.model.width == ours.width else load(source)


def first_params(experiment: Experiment) -> Callable[[Mesh], Params]:
    """Makes the plain DiT parameters to begin with, once: those of `init_from`, or random ones.

    They are made split over the mesh, since the state they become may not fit one device.

    Raises:
      UserError: `init_from` holds another model, or is None where the first stage adapts one.
    """
    source, rank = experiment.init_from, experiment.train.stages[0].adapters
    random = partial(init, experiment.model, jax.random.key(experiment.seed))
    if source is None and rank is not None:
        raise UserError(
            f"train.stages[0].adapters={rank} adapts a pre-trained model, but init_from is None, so it would learn from"
            " random weights; set init_from to such a model, or put a stage that trains all weights before it"
        )
    shapes = jax.eval_shape(random)  # which also refuses what this machine does not run
    if source is None:
        return lambda mesh: made(random, mesh)
    ours, loaded = experiment.model, load_source(experiment)
    plain = folded(at(loaded.params, loaded.patches[0]))
    same_shapes = jax.tree.map(jnp.shape, plain) == jax.tree.map(jnp.shape, shapes)
    theirs = (loaded.model.num_heads, loaded.model.base_patch, loaded.process)
    if not same_shapes or theirs != (ours.num_heads, ours.base_patch, experiment.process):
        how = _differs(experiment, loaded)
        raise UserError(f"init_from={source} holds {loaded!r}, which is not the model of this config: {how}")
    held = [jax.device_get(plain)]
    return lambda mesh: placed(held.pop(), mesh)  # the only reference: none of it outlives the first state


#: what parameters serve alike, whatever a config says of it
_ANY = FREE_WITHIN["model"] | {"dtype", "drop_rate", "names"}


def _differs(experiment: Experiment, loaded: FlexiDiT) -> str:
    """The first key on which a config and a model of another one differ, with both values."""
    any_size = {"latent"} if loaded.model.latent[-1] == experiment.model.latent[-1] else set()  # of its channels alone
    ours, theirs = (
        {"model": without(describe(one.model), _ANY | any_size), "process": build.describe(one.process)}
        for one in (experiment, loaded)
    )
    key, here, there = difference(ours, theirs)
    return f"{key} is {there!r} there, {here!r} here"
