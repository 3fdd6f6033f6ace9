"""Checkpoints: everything a run needs to go on as if nothing had happened.

A step folder holds `params`, `ema`, `optimizer`, with adapters `frozen` (orbax) and `meta` (JSON: stage,
step within it, position of the data, config). Saving is asynchronous and a step appears under its name only when
it is complete, so a kill at any moment leaves the step before intact.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.trees import merge
from flexidit_jax.common.types import Params, as_patch
from flexidit_jax.models.dit import build_dit, init
from flexidit_jax.models.flexify import flexify, split_frozen
from flexidit_jax.training.state import TrainState

CONFIG_FILE = "config.json"


class Checkpoints:
    """The checkpoints of one run's folder.

    Args:
      workdir: the run's folder.
      keep: newest steps kept.
    """

    def __init__(self, workdir: Path, keep: int = 2) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax narrates every save
        self.folder = (workdir / "checkpoints").resolve()
        try:
            options = ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True, create=True)
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        except OSError as error:
            raise UserError(f"cannot write to {self.folder} ({error.strerror})") from None

    def latest(self) -> int | None:
        """The newest complete step of the whole run."""
        return self._manager.latest_step()

    def save(self, number: int, state: TrainState, meta: dict[str, Any]) -> None:
        """Saves step `number` of the run; returns while the files are still being written."""
        parts = {name: ocp.args.StandardSave(tree) for name, tree in _parts(state).items()}
        meta = ocp.args.JsonSave({**meta, "stage_step": int(state.step)})
        self._manager.save(number, args=ocp.args.Composite(**parts, meta=meta))

    def meta(self, number: int) -> dict[str, Any]:
        """The JSON part of a step."""
        return read_meta(self.folder / str(number))

    def restore(self, number: int, target: TrainState) -> TrainState:
        """The state of a step, laid out as `target` (shapes with shardings) says."""
        args = ocp.args.Composite(**{name: ocp.args.StandardRestore(tree) for name, tree in _parts(target).items()})
        meta = self.meta(number)
        try:
            found = self._manager.restore(number, args=args)
        except Exception as error:
            raise _damaged(self.folder / str(number), error) from error
        return target.replace(step=jnp.int32(meta["stage_step"]), **{name: found[name] for name in _parts(target)})

    def wait(self) -> None:
        """Blocks until every save is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


def read_meta(step: Path) -> dict[str, Any]:
    """The JSON part of a step folder."""
    try:
        return json.loads((step / "meta" / "metadata").read_text())
    except (OSError, ValueError) as error:
        raise _damaged(step, error) from None


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run's folder holds a step to resume from."""
    return bool(_steps(workdir))


def newest_step(workdir: Path) -> Path:
    """The folder of the newest complete checkpoint.

    Raises:
      UserError: there is none.
    """
    steps = _steps(workdir)
    if not steps:
        raise UserError(f"{workdir} holds no checkpoint; train there first, or name another folder")
    return max(steps, key=lambda path: int(path.name))


def _steps(workdir: Path) -> list[Path]:
    folder = workdir / "checkpoints"
    return [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []


def load_weights(path: Path) -> tuple[dict[str, Any], Params]:
    """The config and EMA weights of a run's newest checkpoint, or of the step folder given.

    Raises:
      UserError: no checkpoint there, or a damaged one.
    """
    step = path if (path / "meta").is_dir() else newest_step(path)
    meta = read_meta(step)
    config = meta["config"]
    model = build.call(build_dit, config["model"], "model")
    patches = [as_patch(patch) for patch in meta["patches"]]
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # whatever mesh it was trained on
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
        jax.eval_shape(lambda: flexify(init(model, jax.random.key(0)), patches, meta["adapters"])),
    )
    trained, frozen = split_frozen(shapes)
    try:
        with ocp.StandardCheckpointer() as reader:
            params = reader.restore((step / "ema").resolve(), trained)
            return config, merge(reader.restore((step / "frozen").resolve(), frozen) if frozen else {}, params)
    except Exception as error:
        raise _damaged(step, error) from error


def _parts(state: TrainState) -> dict[str, Any]:
    """The trees of a state that are saved, each by itself so that a reader takes what it needs."""
    parts = {"params": state.params, "ema": state.ema, "optimizer": state.optimizer, "frozen": state.frozen}
    return {name: tree for name, tree in parts.items() if jax.tree.leaves(tree)}


def _damaged(step: Path, error: Exception) -> UserError:
    lines = str(error).strip().splitlines()
    reason = lines[0][:160] if lines else type(error).__name__
    return UserError(
        f"checkpoint {step} is damaged or incomplete ({reason}); remove that folder to use the step before it"
    )
