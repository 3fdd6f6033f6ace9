"""What TensorBoard shows of a run that was killed and went on."""

from __future__ import annotations

from pathlib import Path

import pytest
from clu import metric_writers
from tensorboard.backend.event_processing.plugin_event_accumulator import TENSORS, EventAccumulator
from tensorboard.util import tensor_util

from flexidit_jax.training.monitor.event_rewind import take_back


def log(folder: Path, steps: range, value: float) -> None:
    """One start's scalars, in a file named as if it began a second after the one before."""
    writer = metric_writers.create_default_writer(str(folder / "new"), asynchronous=False)
    for step in steps:
        writer.write_scalars(step, {"loss": value})
    writer.close()
    (file,) = (folder / "new").iterdir()
    file.rename(folder / f"events.out.tfevents.{len(list(folder.iterdir())):010d}.host.v2")


def shown(folder: Path) -> list[tuple[int, float]]:
    events = EventAccumulator(str(folder), {TENSORS: 0}, purge_orphaned_data=True)
    events.Reload()
    return [(event.step, float(tensor_util.make_ndarray(event.tensor_proto))) for event in events.Tensors("loss")]


@pytest.mark.parametrize("kills", [1, 2, 3])
@pytest.mark.parametrize("done", [0, 4])
def test_steps_done_anew_are_shown_once(tmp_path: Path, done: int, kills: int) -> None:
    take_back(tmp_path, 0)
    assert list(tmp_path.iterdir()) == []
    log(tmp_path, range(2, 10, 2), 0)
    for kill in range(1, kills + 1):
        take_back(tmp_path, done)
        log(tmp_path, range(done + 2, 10 + 2 * kill, 2), kill)
    assert shown(tmp_path) == [(step, 0 if step <= done else kills) for step in range(2, 10 + 2 * kills, 2)]
