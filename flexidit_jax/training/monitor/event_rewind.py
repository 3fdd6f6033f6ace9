"""Curves in TensorBoard that go on where a run goes on."""

from __future__ import annotations

import time
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter


def take_back(folder: Path, done: int) -> None:
    """Makes TensorBoard drop what an earlier start logged of steps after `done`: they are done anew.

    Readers take files in the order of their names, so that is said in a file behind the newest one, and this is to be
    called before a writer of this start makes its own. Where nothing was logged before, nothing is written.

    Args:
      folder: of the events.
      done: steps done before this start.
    """
    newest = max(folder.glob("events.out.tfevents.*"), default=None)
    if newest is None:
        return
    now = time.time()
    writer = RecordWriter(newest.with_name(f"{newest.name}.resumed").open("wb"))
    writer.write(Event(wall_time=now, file_version="brain.Event:2").SerializeToString())
    start = SessionLog(status=SessionLog.START)
    for _ in range(2):  # the first one in a folder is taken for the beginning of the run, and drops nothing
        writer.write(Event(wall_time=now, step=done + 1, session_log=start).SerializeToString())
    writer.close()
