"""Everything a training run shows of itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np

from flexidit_jax.common.chips import peak_flops
from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.compilations import Compilations
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress, warnings_said
from flexidit_jax.common.types import Patch, short_patch_name
from flexidit_jax.models.dit import DiT
from flexidit_jax.runs.checkpoints import Checkpoints
from flexidit_jax.training.flops import training_flops
from flexidit_jax.training.monitor.event_files import Writer, event_files
from flexidit_jax.training.monitor.event_rewind import take_back
from flexidit_jax.training.monitor.loss_spikes import LossSpikes
from flexidit_jax.training.monitor.metric_log import MetricLog
from flexidit_jax.training.monitor.throughput import Throughput, memory
from flexidit_jax.training.monitor.trace import Trace
from flexidit_jax.training.section import Training
from flexidit_jax.training.stages import Stage
from flexidit_jax.training.state import TrainState

Preview: TypeAlias = Callable[[TrainState, Sequence[Patch]], np.ndarray]


class Monitor:
    """A bar and lines on the terminal; scalars, samples and a profile in the workdir, which TensorBoard shows.

    Only the first of several processes shows anything. Watching changes no bit of what is trained.

    Args:
      train: the `train` section.
      model: what is trained.
      workdir: the run's folder.
      checkpoints: where the last step before an outbreak of the loss is kept.
      done: steps done before this start.
      records: of one epoch.
      preview: a state and its modes -> one sheet of samples, uint8 [H, W, C].
      trace_at: steps done before a few are traced; None traces none.
    """

    def __init__(
        self,
        train: Training,
        model: DiT,
        workdir: Path,
        checkpoints: Checkpoints,
        done: int,
        records: int,
        preview: Preview,
        trace_at: int | None = None,
    ) -> None:
        speaks = cluster.first()
        self._train, self._model, self._checkpoints, self._records = train, model, checkpoints, records
        self._sheet = preview
        self._closing = ExitStack()
        writer, self._rate = Writer(), lambda done: None
        if speaks:
            take_back(workdir, done)
            writer, self._rate = event_files(workdir, train.steps)
        self._closing.callback(writer.close)
        self.bar = self._closing.enter_context(Progress(train.steps, "training", start=done, enabled=speaks))
        self._closing.enter_context(warnings_said(self.bar))  # such as a corrupt record
        self._writer = writer
        self._log = MetricLog(writer, self.bar, LossSpikes(train.spike), self.batch)
        at = trace_at if speaks else None
        self._trace = Trace(workdir / "profile", at)
        self._closing.callback(self._end_trace)
        if at is not None and at < done:
            self.bar.say(f"profile_at={at} was passed before; there is no profile of this start")
        self._throughput: Throughput | None = None

    def __enter__(self) -> Monitor:
        return self

    def __exit__(self, *error: Any) -> None:
        self._closing.close()

    def stage(self, i: int, stage: Stage) -> None:
        """Stage `i`, counted from 0, begins or goes on."""
        train, model = self._train, self._model
        names = ", ".join(map(short_patch_name, stage.patches))
        self.bar.say(f"stage {i + 1} of {len(train.stages)}: patches {names}, {stage.steps} steps")
        flops = {patch: train.batch * training_flops(model, stage, patch) for patch in stage.patches}
        peak = peak_flops(jax.devices()[0].device_kind, model.dtype)
        self._throughput = Throughput(train.batch, flops.__getitem__, jax.device_count(), peak)

    def before(self, done: int) -> None:
        """The step after `done` steps is about to begin."""
        self._trace.before(done)

    def step(self, done: int, patch: Patch, metrics: dict[str, Any], compiled: Compilations) -> None:
        """Step `done` is on its way."""
        self._log.add(done, patch, metrics)
        self._throughput.add(patch)
        if compiled.count:
            self.bar.say(f"step {done}, patch {short_patch_name(patch)}: {compiled}")
            self._throughput.restart()
        if line := self._trace.after(done, metrics):
            self.bar.say(line)
            self._throughput.restart()
        self._rate(done)

    def flush(self, done: int) -> None:
        """Checks and writes everything since the last time.

        Raises:
          UserError: a value that is not finite; or, at an outbreak, the last save could not be written.
        """
        for spike in self._log.flush(done, self._throughput.scalars() | memory()):
            self.bar.say(f"{spike}; {self._keep()}")
        self._writer.flush()  # a kill loses nothing of what led to a saved step

    def preview(self, done: int, state: TrainState, patches: Sequence[Patch]) -> None:
        """Samples of the moving average, as one picture, if they are due."""
        every = self._train.preview_every
        if every and done % every == 0:
            sheet = self._sheet(state, patches)
            self._writer.write_images(done, {"samples": sheet[None]})
            self._throughput.restart()

    def batch(self, number: int) -> str:
        """The batch of step `number` in words."""
        size = self._train.batch
        epoch, first = divmod((number - 1) * size, self._records)
        return f"batch {number}: {size} records from number {first} of epoch {epoch} on"

    def _end_trace(self) -> None:
        """Of a run that ends before the last step to trace."""
        if line := self._trace.close():
            self.bar.say(line)

    def _keep(self) -> str:
        """Keeps the newest step; says what came of it."""
        self._checkpoints.wait()  # a save that failed ends the run, a second name of it that cannot be made does not
        try:
            kept = self._checkpoints.keep_newest()
        except UserError as error:
            return f"the step before it could not be kept ({error})"
        return "no step was saved before it" if kept is None else f"{kept} stays"
