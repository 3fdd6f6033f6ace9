"""`--mode=train`: the main job. Trains through all stages, resuming where it stopped, then reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from clu import parameter_overview
from jax.sharding import Mesh
from ml_collections import ConfigDict

from flexidit_jax.codecs.latents import data_of, latents_of
from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.compilations import Compilations
from flexidit_jax.common.progress import detail
from flexidit_jax.common.trees import merge
from flexidit_jax.common.types import Params
from flexidit_jax.data.loader import batches
from flexidit_jax.evaluation.preview import preview
from flexidit_jax.experiment.captions import Records, reader
from flexidit_jax.experiment.dataset import say_found
from flexidit_jax.experiment.experiment import Experiment, build_experiment
from flexidit_jax.experiment.sections import HOW
from flexidit_jax.experiment.start import recorded, training_start
from flexidit_jax.experiment.texts import read_asked
from flexidit_jax.jobs import report
from flexidit_jax.models.build import init
from flexidit_jax.models.conditioning.condition import negatives, of_records, parsed, size
from flexidit_jax.runs import workdir as folder
from flexidit_jax.runs.agreement import agree, alone, check_watching
from flexidit_jax.runs.binding import check_images
from flexidit_jax.runs.checkpoints import Checkpoints
from flexidit_jax.runs.stop import Stop, Votes, until_stopped
from flexidit_jax.training.monitor.monitor import Monitor
from flexidit_jax.training.sharding import (
    check_axes,
    check_batch,
    made,
    make_mesh,
    put_batch,
    shaped,
    share,
)
from flexidit_jax.training.state import abstract, first_state, next_stage
from flexidit_jax.training.step import make_step
from flexidit_jax.training.updates import COUNTS, UpdateCounts

SEVERAL_PROCESSES = True  # it may be started as one of them
#: of what may change between two starts, the sections and keys that it reads
READS = (
    *("init_from", "profile_at", "train", *report.READS),
    *(*HOW, "sample.labels", "sample.prompts", "sample.batch", "sample.negative", "sample.first"),
)


def run(config: ConfigDict, workdir: Path) -> int:
    """Trains `config` in `workdir`.

    Returns:
      0 when finished, `STOPPED` when stopped by SIGTERM, 130 when stopped by Ctrl-C.
    """
    experiment = build_experiment(config, workdir)
    experiment.wants_dataset()
    mesh = make_mesh(**experiment.train.mesh)
    check_axes(experiment.model, experiment.train.stages, mesh)
    check_batch(experiment.train.batch, mesh, experiment.train.accumulate)
    check_watching(experiment.train.preview_every)
    asked, shown = experiment.sample, (None, None)
    if experiment.train.preview_every:  # what is drawn on the way is looked at before
        shown = read_asked(experiment, asked.prompts, asked.labels, asked.others["negative"])
        cond = parsed(experiment.model.conditioner, shown[0])
        negatives(experiment.model.conditioner, shown[1], size(cond))
    start = partial(training_start, experiment, workdir)
    source, first = experiment.check(experiment.dataset.source, start)  # refused before anything is written
    augment = getattr(experiment.dataset, "augment", lambda record, rng: record)
    read = reader(experiment, augment(source[0], np.random.default_rng(0)))
    images = getattr(experiment.dataset, "fingerprint", lambda: None)()  # where they lie anywhere
    agree(config, workdir, images)
    with folder.claimed(workdir, experiment.raw, experiment.defaults):
        with Stop("saving before stopping") as stop, ExitStack() as closing:
            status = _train(experiment, source, read, shown, images, first, workdir, mesh, stop, closing)
        if status is not None:
            return status
        if experiment.report is not None and not cluster.several():
            if stop.asked:  # too late for a step, while the last was being saved
                return stop.status
            return until_stopped(partial(report.run, config, workdir), "stopped; the same command draws the report")
    if cluster.several():
        print(f"finished; one process by itself draws from it: {alone('report' if experiment.report else 'sample')}")
        return 0
    print("finished; the same command with --mode=sample draws from it")
    return 0


def _train(
    experiment: Experiment,
    source: Sequence[Any],
    read: Callable[[Records], Records],
    shown: tuple[Any, Any],
    images: str | None,
    first: Callable[[Mesh], Params] | None,
    workdir: Path,
    mesh: Mesh,
    stop: Stop,
    closing: ExitStack,
) -> int | None:
    """Trains to the end: None; or to a signal: the exit status."""
    train, seed = experiment.train, experiment.seed
    checkpoints = Checkpoints(workdir, train.keep)
    closing.callback(checkpoints.close)

    # ---------------------------------------------------------------- State: own checkpoint, init_from, scratch
    done = checkpoints.newest_whole() or 0
    if done >= train.steps:
        print(f"{workdir}: training is finished ({done} steps)")
        return None
    augment, (host, hosts) = getattr(experiment.dataset, "augment", None), share(mesh)
    stream = batches(source, train.batch, seed, augment, train.workers, host, hosts)
    closing.callback(stream.close)
    if done:
        meta = checkpoints.meta(done)
        check_images(workdir, meta.get("images"), images)
        stage = train.stages[meta["stage"]]
        optimizer = train.optimizer.build(stage.rate())
        shapes = abstract(partial(init, experiment.model, jax.random.key(0)), stage, optimizer)
        state = checkpoints.restore(done, shaped(shapes, mesh))
        stream.set_state(meta["data"])
        print(f"{workdir}: resuming after step {done} of {train.steps}")
        if meta.get("counts") != COUNTS:
            line = "counted updates for all modes alike; from here on Adam and the average go by those of each mode"
            print(f"step {done} {line}")
    else:
        stage = train.stages[0]
        optimizer = train.optimizer.build(stage.rate())
        state = made(partial(first_state, stage=stage, optimizer=optimizer), mesh, first(mesh))
    checkpoints.check_room(state)
    words = recorded(experiment, workdir)
    folder.record(workdir, words)  # nothing is refused from here on
    say_found(experiment.dataset)
    for line in train.short_averages() if cluster.first() else ():
        print(f"warning: {line}")
    parameters = parameter_overview.get_parameter_overview(merge(state.frozen, state.params), include_stats=False)
    folder.record_text(workdir, "parameters.txt", parameters)
    detail(parameters)

    asked, (labels, negative) = experiment.sample, shown
    sheet = partial(
        preview,
        model=experiment.model,
        process=experiment.process,
        codec=experiment.codec,
        modes=train.stages[-1].patches,
        labels=labels,
        spec=asked.spec,
        batch=asked.batch,
        negative=negative,
        first=asked.others["first"],
    )
    monitor = closing.enter_context(
        Monitor(
            train, experiment.model, workdir, checkpoints,
            done=done, records=len(source), preview=sheet, trace_at=experiment.profile_at,
        )
    )  # fmt: skip
    posterior = jax.random.fold_in(jax.random.key(seed), 2**32 - 1)  # apart from the keys of steps, which count from 0

    counts = UpdateCounts(train.stages, seed, done)
    votes = Votes(stop, mesh)
    closing.enter_context(cluster.together())  # innermost: closing a save waits for processes that may be gone

    # ---------------------------------------------------------------- Stages
    first_stage, start = train.place(done)
    for i, stage in enumerate(train.stages[first_stage:], first_stage):
        optimizer = train.optimizer.build(stage.rate())
        if start == 0 and done > 0:
            state = state.replace(optimizer=())  # ends here: room for the new one
            state = made(partial(next_stage, stage=stage, optimizer=optimizer), mesh, state)
        monitor.stage(i, stage)
        fixed = (experiment.model, experiment.process, stage.loss, optimizer, train.ema, seed, stage.times)
        step = make_step(*fixed, mesh, train.accumulate)

        # ------------------------------------------------------------ Steps
        for within in range(start, stage.steps):
            monitor.before(done)
            records = read(next(stream))
            patch = stage.mode(seed, done)
            x0 = latents_of(experiment.codec, put_batch(data_of(records), mesh), jax.random.fold_in(posterior, done))
            told = of_records(experiment.model.sized(x0.shape[1:]).conditioner, records)  # of their size too
            cond = put_batch(told, mesh)
            with Compilations() as compiled:
                state, metrics = step(state, x0, cond, done, patch, counts.next(patch))
            done += 1
            monitor.step(done, patch, metrics, compiled)
            stopping = votes.count()
            saving = done % train.checkpoint_every == 0 or within + 1 == stage.steps or stopping
            if saving or done % train.log_every == 0:
                monitor.flush(done)  # refuses a loss that is not finite, so that it is never saved
            if saving:
                meta = {"stage": i, "patches": stage.patches, "adapters": stage.adapters}
                meta |= {"data": stream.get_state(), "images": images, "config": words, "counts": COUNTS}
                checkpoints.save(done, state, meta)
            monitor.preview(done, state, stage.patches)
            monitor.bar.advance()
            if stopping:
                checkpoints.wait()  # before anything is promised
                monitor.bar.say(
                    f"stopped after step {done} of {train.steps}; saved, the same command goes on from there"
                )
                return votes.status
        start = 0
    return None
