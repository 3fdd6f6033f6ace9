"""Checkpoints: everything a run needs to go on as if nothing had happened.

A step folder holds `params`, `ema`, `optimizer`, with adapters `frozen` (orbax), `meta` (JSON: stage, step within it,
position of the data, hash of the images' names, config) and the checksums of all of it. Saving is asynchronous and a
step appears under its name only when it is complete, so a kill at any moment leaves the step before intact. What
happens to a step afterwards its checksums tell: a run goes on from the newest one that is whole, and the damaged ones
after it are set aside.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental.multihost_utils import broadcast_one_to_all

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import check_finite
from flexidit_jax.runs.checksums import CHECKSUMS, META, record
from flexidit_jax.runs.disk import check_room, needed, room
from flexidit_jax.runs.orbax_noise import quiet_orbax
from flexidit_jax.runs.recovery import KEPT, Say, damaged_error, keep_linked, settle, steps_of, sweep


class Saveable(Protocol):
    """A state that can be saved and laid out anew: `training.state.TrainState`."""

    step: Any

    def parts(self) -> dict[str, Any]:
        """The trees that are saved, each by itself so that a reader takes what it needs."""

    def replace(self, **parts: Any) -> Saveable:
        """The same with other parts, and with another step."""


class Checkpoints:
    """The checkpoints of one run's folder.

    Args:
      workdir: the run's folder.
      keep: newest steps kept.
    """

    def __init__(self, workdir: Path, keep: int = 2) -> None:
        quiet_orbax()
        self.folder = (workdir / "checkpoints").resolve()
        self._saving, self._bytes = 0, 0
        if jax.process_index() == 0:
            sweep(self.folder)
        try:
            options = ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                create=True,
                async_options=ocp.options.AsyncOptions(post_finalization_callback=self._record),
            )
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        except OSError as error:
            raise UserError(f"cannot write to {self.folder} ({error.strerror})") from None

    def newest_whole(self, say: Say = print) -> int | None:
        """The newest step that is what was written, those after it set aside (`recovery.settle`); None without steps.

        Process 0 looks, the others take its word.
        """
        none, refused = -1, -2
        number, caught = none, UserError("process 0 found no checkpoint to go on from; its message says why")
        if jax.process_index() == 0:
            try:
                step = settle(self.folder.parent, say)
                number = none if step is None else int(step.name)
            except UserError as error:
                number, caught = refused, error
        if jax.process_count() > 1:
            number = int(broadcast_one_to_all(np.int32(number)))
        if number == refused:
            raise caught
        self._manager.reload()
        return None if number == none else number

    def check_room(self, state: Saveable) -> None:
        """Refuses to train what could not be saved even once.

        Raises:
          UserError: the disk has no room for one checkpoint of `state`, or the folder is gone.
        """
        check_room(self.folder, needed(state.parts()), f"no room for a single checkpoint in {self.folder}")

    def save(self, number: int, state: Saveable, meta: dict[str, Any]) -> None:
        """Saves step `number` of the run; returns while the files are still being written.

        Raises:
          UserError: the disk is full, the folder gone, or this save or the one before cannot be written; the
            steps there stay.
        """
        self.wait()
        trees = state.parts()
        self._saving, self._bytes = number, needed(trees)
        parts = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        meta = ocp.args.JsonSave({**meta, "stage_step": int(state.step), "checksums": CHECKSUMS})
        check_room(self.folder, self._bytes, self._not_saved())
        with self._writing():
            self._manager.save(number, args=ocp.args.Composite(**parts, meta=meta))

    def keep_newest(self) -> Path | None:
        """Keeps the newest step, however many come, under a name beside the others; one is kept at a time.

        Returns:
          Its folder, whole and loadable like any step; None where there is no step.

        Raises:
          UserError: it cannot be kept, or the last save could not be written.
        """
        self.wait()
        newest = self._manager.latest_step()
        if newest is None:
            return None
        kept = self.folder / f"{KEPT}{newest}"
        if jax.process_index() == 0:
            keep_linked(self.folder / str(newest), kept)
        return kept

    def meta(self, number: int) -> dict[str, Any]:
        """The JSON part of a step."""
        return read_meta(self.folder / str(number))

    def restore(self, number: int, target: Saveable) -> Saveable:
        """The state of a step, laid out as `target` (shapes with shardings) says.

        Raises:
          UserError: it cannot be read, or holds weights that are not finite.
        """
        args = ocp.args.Composite(**{name: ocp.args.StandardRestore(tree) for name, tree in target.parts().items()})
        meta = self.meta(number)
        try:
            found = self._manager.restore(number, args=args)
        except Exception as error:
            raise damaged_error(self.folder / str(number), reason_of(error)) from error
        check_finite({name: found[name] for name in target.parts() if name != "optimizer"}, self.folder / str(number))
        # where a step would leave it: elsewhere, the second step after a resume would be compiled anew
        step = jax.device_put(np.int32(meta["stage_step"]), target.step.sharding)
        return target.replace(step=step, **{name: found[name] for name in target.parts()})

    def wait(self) -> None:
        """Blocks until every save is on disk.

        Raises:
          UserError: the last save could not be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """As `wait`, and no more saves."""
        with self._writing():
            self._manager.close()

    def _record(self) -> None:
        """Called by orbax in the background, on process 0, when all files are there and the step has no name yet."""
        (unfinished,) = self.folder.glob(f"{self._saving}{ocp.utils.TMP_DIR_SUFFIX}*")
        record(unfinished)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """An error of orbax, which may be that of a save begun earlier, in one line."""
        try:
            yield
        except Exception as error:
            raise UserError(f"{self._not_saved()} ({reason_of(error)}): {room(self.folder, self._bytes)}") from error

    def _not_saved(self) -> str:
        kept = [step.name for step in steps_of(self.folder.parent) if step.name != str(self._saving)]
        stays = f"step {max(kept, key=int)} stays" if kept else "there is none before it"
        return f"checkpoint {self.folder / str(self._saving)} could not be written and {stays}"


def read_meta(step: Path) -> dict[str, Any]:
    """The JSON part of a step folder."""
    try:
        return json.loads((step / META).read_text())
    except (OSError, ValueError) as error:
        raise damaged_error(step, reason_of(error)) from None


def reason_of(error: Exception) -> str:
    """The system's own words where there are any: tensorstore puts its notes, among them `[os_error_code='28']`, in any
    order after what it says itself."""
    text = str(error).strip()
    if system := re.search(r"\[os_error_code='(\d+)'", text):
        return os.strerror(int(system[1]))
    return text.splitlines()[0][:160] if text else type(error).__name__
