"""Event files, which TensorBoard shows, written by clu."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flexidit_jax.common.types import Array


class Writer:
    """What is used of clu's writers. This one, of a process that shows nothing, writes nothing."""

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        pass

    def write_images(self, step: int, images: Mapping[str, Array]) -> None:
        pass

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def event_files(folder: Path, steps: int) -> tuple[Writer, Callable[[int], Any]]:
    """Begins a file in `folder`.

    Loads TensorFlow, which takes as long as all else that training loads: a process that trains nothing, or shows
    nothing, does without.

    Args:
      folder: of the events.
      steps: of the whole run.

    Returns:
      The writer, and what is to be called with the number of every step: it writes their rate now and then.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # which it announces else
    from clu import metric_writers, periodic_actions

    writer = metric_writers.create_default_writer(str(folder), asynchronous=False)
    return writer, periodic_actions.ReportProgress(num_train_steps=steps, writer=writer, every_secs=30)
