"""Everything a training run shows of itself."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
from clu import metric_writers, periodic_actions

from flexidit_jax.common import cluster
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress, warnings_said
from flexidit_jax.common.types import Patch, short_patch_name
from flexidit_jax.jobs.parts.compilation import Compilations
from flexidit_jax.jobs.parts.curves import take_back
from flexidit_jax.jobs.parts.experiment import Experiment
from flexidit_jax.jobs.parts.log import Log
from flexidit_jax.jobs.parts.pace import Pace, memory
from flexidit_jax.jobs.parts.peak import peak_flops
from flexidit_jax.jobs.parts.previews import preview
from flexidit_jax.jobs.parts.profile import Profile
from flexidit_jax.jobs.parts.spikes import Spikes
from flexidit_jax.training.checkpoint import Checkpoints
from flexidit_jax.training.flops import training_flops
from flexidit_jax.training.stages import Stage
from flexidit_jax.training.state import TrainState


class Watch:
    """A bar and lines on the terminal; scalars, samples and a profile in the workdir, which TensorBoard shows.

    Only the first of several processes shows anything. Watching changes no bit of what is trained.

    Args:
      experiment: what is run.
      workdir: its folder.
      checkpoints: where the last step before an outbreak of the loss is kept.
      done: steps done before this start.
      records: of one epoch.
    """

    def __init__(
        self, experiment: Experiment, workdir: Path, checkpoints: Checkpoints, done: int, records: int
    ) -> None:
        train, speaks = experiment.train, cluster.first()
        self._experiment, self._checkpoints, self._records = experiment, checkpoints, records
        self._closing = ExitStack()
        if speaks:
            take_back(workdir, done)
        writer = metric_writers.create_default_writer(str(workdir), just_logging=not speaks, asynchronous=False)
        self._closing.callback(writer.close)
        self.bar = self._closing.enter_context(Progress(train.steps, "training", start=done, enabled=speaks))
        self._closing.enter_context(warnings_said(self.bar))  # such as a corrupt record
        self._writer = writer
        self._log = Log(writer, self.bar, Spikes(train.spike), self.batch)
        self._rate = periodic_actions.ReportProgress(num_train_steps=train.steps, writer=writer, every_secs=30)
        at = experiment.profile_at if speaks else None
        self._profile = Profile(workdir / "profile", at)
        self._closing.callback(self._end_profile)
        if at is not None and at < done:
            self.bar.say(f"profile_at={at} was passed before; there is no profile of this start")
        self._pace: Pace | None = None

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *error: Any) -> None:
        self._closing.close()

    def stage(self, i: int, stage: Stage) -> None:
        """Stage `i`, counted from 0, begins or goes on."""
        train, model = self._experiment.train, self._experiment.model
        names = ", ".join(map(short_patch_name, stage.patches))
        self.bar.say(f"stage {i + 1} of {len(train.stages)}: patches {names}, {stage.steps} steps")
        flops = {patch: train.batch * training_flops(model, stage, patch) for patch in stage.patches}
        peak = peak_flops(jax.devices()[0].device_kind, model.dtype)
        self._pace = Pace(train.batch, flops.__getitem__, jax.device_count(), peak)

    def before(self, done: int) -> None:
        """The step after `done` steps is about to begin."""
        self._profile.before(done)

    def step(self, done: int, patch: Patch, metrics: dict[str, Any], compiled: Compilations) -> None:
        """Step `done` is on its way."""
        self._log.add(done, patch, metrics)
        self._pace.add(patch)
        if compiled.count:
            self.bar.say(f"step {done}, patch {short_patch_name(patch)}: {compiled}")
            self._pace.restart()
        if line := self._profile.after(done, metrics):
            self.bar.say(line)
            self._pace.restart()
        self._rate(done)

    def flush(self, done: int) -> None:
        """Checks and writes everything since the last time.

        Raises:
          UserError: a value that is not finite; or, at an outbreak, the last save could not be written.
        """
        for spike in self._log.flush(done, self._pace.scalars() | memory()):
            self.bar.say(f"{spike}; {self._keep()}")
        self._writer.flush()  # a kill loses nothing of what led to a saved step

    def preview(self, done: int, state: TrainState, patches: Sequence[Patch]) -> None:
        """Samples of the moving average, as one picture, if they are due."""
        every = self._experiment.train.preview_every
        if every and done % every == 0:
            sheet = preview(self._experiment, state, patches)
            self._writer.write_images(done, {"samples": sheet[None]})
            self._pace.restart()

    def batch(self, number: int) -> str:
        """The batch of step `number` in words."""
        size = self._experiment.train.batch
        epoch, first = divmod((number - 1) * size, self._records)
        return f"batch {number}: {size} records from number {first} of epoch {epoch} on"

    def _end_profile(self) -> None:
        """Of a run that ends before the last step to trace."""
        if line := self._profile.close():
            self.bar.say(line)

    def _keep(self) -> str:
        """Keeps the newest step; says what came of it."""
        self._checkpoints.wait()  # a save that failed ends the run, a second name of it that cannot be made does not
        try:
            kept = self._checkpoints.keep_newest()
        except UserError as error:
            return f"the step before it could not be kept ({error})"
        return "no step was saved before it" if kept is None else f"{kept} stays"
