"""The model a job samples from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from flexidit_jax.api import FlexiDiT, load
from flexidit_jax.experiment.experiment import Experiment
from flexidit_jax.runs.binding import check_config
from flexidit_jax.runs.recovery import has_checkpoint


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
