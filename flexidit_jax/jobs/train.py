"""`--mode=train`: the main job. Trains through all stages, resuming where it stopped, then reports."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import jax
from clu import metric_writers, parameter_overview
from ml_collections import ConfigDict

from flexidit_jax.api import load
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress
from flexidit_jax.common.types import Params, short_patch_name
from flexidit_jax.data.loader import batches
from flexidit_jax.jobs import report
from flexidit_jax.jobs.parts import workdir as folder
from flexidit_jax.jobs.parts.experiment import Experiment, build_experiment
from flexidit_jax.jobs.parts.log import Log
from flexidit_jax.models.dit import init
from flexidit_jax.models.flexify import at
from flexidit_jax.training.checkpoint import Checkpoints
from flexidit_jax.training.sharding import check_batch, make_mesh, placed, put_batch, shaped
from flexidit_jax.training.state import TrainState, abstract, first_state, next_stage
from flexidit_jax.training.step import make_step


def run(config: ConfigDict, workdir: Path) -> int:
    """Trains `config` in `workdir`.

    Returns:
      0 when finished or stopped by SIGTERM, 130 when stopped by Ctrl-C.
    """
    experiment = build_experiment(config)
    train, seed = experiment.train, experiment.seed
    mesh = make_mesh(**train.mesh)
    check_batch(train.batch, mesh)
    folder.claim(workdir, experiment.raw)

    # ---------------------------------------------------------------- State: own checkpoint, init_from, scratch
    checkpoints = Checkpoints(workdir, train.keep)
    done = checkpoints.latest()
    if done is None:
        done, data_position = 0, None
        optimizer = train.optimizer.build(train.stages[0].rate())
        state = placed(first_state(_plain_params(experiment), train.stages[0].patches, optimizer), mesh)
    else:
        meta = checkpoints.meta(done)
        data_position = meta["data"]
        stage = train.stages[meta["stage"]]
        optimizer = train.optimizer.build(stage.rate())
        shapes = abstract(
            lambda: first_state(init(experiment.model, jax.random.key(0)), stage.patches, optimizer)
        )
        state = checkpoints.restore(done, shaped(shapes, mesh))
    if done >= train.steps:
        print(f"{workdir}: training is finished ({done} steps)")
        checkpoints.close()
        return _report(config, workdir, experiment)
    print(parameter_overview.get_parameter_overview(state.params, include_stats=False))
    if done:
        print(f"{workdir}: resuming after step {done} of {train.steps}")

    # ---------------------------------------------------------------- Data
    stream = batches(experiment.dataset.source(), train.batch, seed)
    if data_position is not None:
        stream.set_state(data_position)

    # ---------------------------------------------------------------- Loop
    writer = metric_writers.create_default_writer(str(workdir), asynchronous=False)
    stop = _Stop()
    field = experiment.model.conditioner.field
    saved = done
    with Progress(train.steps, "training", start=done) as bar:
        log = Log(writer, bar)

        def save(stage_index: int) -> None:
            log.flush(done)  # a state after a non-finite loss must never be saved
            patches = train.stages[stage_index].patches
            position = stream.get_state()
            checkpoints.save(
                done, state, {"stage": stage_index, "patches": patches, "data": position, "config": experiment.raw}
            )

        first_stage, within = train.place(done)
        for i in range(first_stage, len(train.stages)):
            stage = train.stages[i]
            optimizer = train.optimizer.build(stage.rate())
            if within == 0 and done > 0:
                state = placed(next_stage(state, stage.patches, optimizer), mesh)
            names = ", ".join(map(short_patch_name, stage.patches))
            bar.say(f"stage {i + 1} of {len(train.stages)}: patches {names}, {stage.steps} steps")
            step = make_step(experiment.model, experiment.process, train.loss, optimizer, train.ema, seed)
            while within < stage.steps:
                batch = put_batch(next(stream), mesh)
                patch = stage.mode(seed, done)
                x0 = experiment.codec.encode(batch["x"])
                state, metrics = step(state, x0, batch[field], done, patch)
                done, within = done + 1, within + 1
                log.add(done, patch, metrics)
                if done % train.log_every == 0:
                    log.flush(done)
                bar.advance()
                if done % train.checkpoint_every == 0 or within == stage.steps or stop.asked:
                    save(i)
                    saved = done
                if stop.asked:
                    break
            if stop.asked:
                break
            within = 0

    # ---------------------------------------------------------------- End
    checkpoints.close()
    writer.close()
    stop.restore()
    if saved < train.steps:
        print(f"stopped after step {done} of {train.steps}; saved, the same command goes on from there")
        return 0 if stop.signal == signal.SIGTERM else 130
    return _report(config, workdir, experiment)


class _Stop:
    """Turns SIGTERM and the first Ctrl-C into a request to save and stop; a second Ctrl-C interrupts."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}

    @property
    def asked(self) -> bool:
        return self.signal is not None

    def restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: Any) -> None:
        if self.asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        print("\nsaving before stopping", file=sys.stderr, flush=True)


def _plain_params(experiment: Experiment) -> Params:
    """Plain DiT parameters to begin with: those of `init_from`, or random ones."""
    source = experiment.train.init_from
    if source is None:
        return init(experiment.model, jax.random.key(experiment.seed))
    loaded = load(source, num_heads=experiment.model.num_heads)
    ours = jax.tree.map(lambda leaf: leaf.shape, abstract(lambda: init(experiment.model, jax.random.key(0))))
    plain = at(loaded.params, experiment.model.base_patch)
    if jax.tree.map(lambda leaf: leaf.shape, plain) != ours:
        raise UserError(f"train.init_from={source} holds {loaded!r}, which is not the model of this config")
    return plain


def _report(config: ConfigDict, workdir: Path, experiment: Experiment) -> int:
    return 0 if experiment.report is None else report.run(config, workdir)
