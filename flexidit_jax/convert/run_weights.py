"""The weights of a run: the moving average of a checkpoint, as sampling reads it, or what it averages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import check_finite
from flexidit_jax.common.trees import merge
from flexidit_jax.common.types import Params, as_patch
from flexidit_jax.models.build import init, recorded_dit
from flexidit_jax.models.flexify import flexify, split_frozen
from flexidit_jax.runs.checkpoints import read_meta, reason_of
from flexidit_jax.runs.orbax_noise import quiet_orbax
from flexidit_jax.runs.recovery import damaged_error, step_to_read

#: what `weights=` calls them -> the part of a checkpoint
PARTS = {None: "ema", "ema": "ema", "raw": "params"}


def load_weights(path: Path, which: str | None = None) -> tuple[dict[str, Any], Params]:
    """The config and the weights of a run's newest checkpoint in which these are whole, or of the step folder given.

    Args:
      path: the folder.
      which: "ema", the default, or "raw".

    Returns:
      Weights on the host.

    Raises:
      UserError: no checkpoint there, none that is whole, or weights that are not finite.
    """
    if which not in PARTS:
        raise UserError(f"weights={which!r} is none that a run has; it has 'ema' and 'raw'")
    quiet_orbax()
    part = PARTS[which]
    step = step_to_read(path, ("meta", part, "frozen"))
    meta = read_meta(step)
    config = meta["config"]
    model = recorded_dit(config["model"])
    patches = [as_patch(patch) for patch in meta["patches"]]
    like = jax.tree.map(
        lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape),  # to the host, whatever it was trained on
        jax.eval_shape(lambda: flexify(init(model, jax.random.key(0)), patches, meta["adapters"])),
    )
    trained, frozen = split_frozen(like)
    try:
        with ocp.StandardCheckpointer() as reader:
            params = reader.restore((step / part).resolve(), trained)
            params = merge(reader.restore((step / "frozen").resolve(), frozen) if frozen else {}, params)
    except Exception as error:
        raise damaged_error(step, reason_of(error)) from error
    check_finite(params, step)
    return config, params
