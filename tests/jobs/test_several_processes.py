"""Two processes with four devices each on this machine: the same training, one end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

import flexidit_jax as fd
from flexidit_jax.main import main
from flexidit_jax.runs.agreement import alone
from flexidit_jax.runs.lock import at_work
from flexidit_jax.runs.recovery import newest_step

ROOT = Path(__file__).parents[2]
SMOKE = f"--config={ROOT / 'configs' / 'digits.py'}:smoke"
WORDS = (
    "--config.train.log_every=1",
    "--config.train.stages[0].steps=5",
    "--config.train.stages[1].steps=4",
    "--config.model.depth=1",  # jax keeps programs of process 0 alone
)

pytestmark = pytest.mark.slow


@contextmanager
def pair(*argv: str) -> Iterator[list[subprocess.Popen[str]]]:
    """The same command as process 0 and 1, four devices each; killed at the end where they are left."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    more = {
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4",
        # jax writes its cache in place: one may look for a program while the other is writing it
        "PYTHONWARNINGS": "ignore:Error reading persistent compilation cache",
    }
    children = [
        subprocess.Popen(
            [*argv, f"--coordinator=localhost:{port}", "--processes=2", f"--process={i}"],
            cwd=ROOT,
            env=os.environ | more,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    hung = threading.Timer(300, lambda: [child.kill() for child in children])  # so that reading from them ends
    hung.start()
    try:
        yield children
    finally:
        hung.cancel()
        for child in children:
            child.kill()
            child.communicate()


def training(workdir: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "flexidit_jax.main", SMOKE, *WORDS, f"--workdir={workdir}", *words]


def until(said: IO[str] | None, start: str) -> str:
    """The line that starts so."""
    assert said is not None
    line = next((line for line in said if line.startswith(start)), None)
    return line.rstrip() if line else pytest.fail(f"{start!r} was never said")


def release(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    print(file=child.stdin, flush=True)


def losses(workdir: Path) -> dict[tuple[str, int], float]:
    events = EventAccumulator(str(workdir), {"tensors": 0})  # all of them
    events.Reload()
    tags = [tag for tag in events.Tags()["tensors"] if re.fullmatch(r"loss/\w+", tag)]
    return {(tag, e.step): float(make_ndarray(e.tensor_proto)) for tag in tags for e in events.Tensors(tag)}


def test_stopped_by_one_resumed_by_both_ended_as_by_one_device(
    tmp_path: Path, quiet: str, held: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    mesh = ("--config.train.mesh.data=2", "--config.train.mesh.fsdp=4")

    # ------------------------------------------------------------ SIGTERM reaches one; both save the same step
    with pair(sys.executable, "-c", held, "stderr", *training(run, *mesh)[3:]) as (first, other):
        until(other.stderr, "HELD")
        other.send_signal(signal.SIGTERM)
        release(other)
        (out, err), (other_out, other_err) = first.communicate(timeout=300), other.communicate(timeout=300)
    assert (first.returncode, other.returncode) == (0, 0), err + other_err
    stopped = int(newest_step(run).name)
    assert stopped in (3, 4)  # the others hear of it a step later
    assert "Gloo" not in out  # C++'s own words
    assert f"stopped after step {stopped} of 9" in out and "Traceback" not in err + other_err
    assert other_out == "" and other_err.strip() == "saving before stopping"

    # ------------------------------------------------------------ Both go on, into the next stage and to the end
    with pair(*training(run, *mesh)) as (first, other):
        (out, err), (other_out, other_err) = first.communicate(timeout=300), other.communicate(timeout=300)
    assert (first.returncode, other.returncode) == (0, 0), err + other_err
    assert f"resuming after step {stopped} of 9" in out
    assert (other_out, other_err) == ("", "")
    command = re.search(r"python -m flexidit_jax\.main .*--mode=report", out)
    assert command and "--process" not in command[0] and f"--workdir={run}" in command[0]
    assert not (run / "report").exists()
    assert {path.name.split(".")[0] for path in run.iterdir()} == {"checkpoints", "config", "events", "parameters"}

    # ------------------------------------------------------------ As on one device of one process
    reference = tmp_path / "reference"
    assert main([quiet, *WORDS, f"--workdir={reference}"]) == 0
    ours, theirs = losses(run), losses(reference)
    assert sorted(step for _, step in theirs) == list(range(1, 10))
    assert ours.keys() == theirs.keys()
    np.testing.assert_allclose([ours[key] for key in theirs], list(theirs.values()), rtol=1e-5)
    a, b = (fd.load(folder).sample([1, 2], steps=2, decode=False) for folder in (run, reference))
    np.testing.assert_allclose(a, b, atol=1e-4)
    # one process goes on from what two saved
    capsys.readouterr()
    assert main([quiet, *WORDS, f"--workdir={run}"]) == 0
    assert "training is finished (9 steps)" in capsys.readouterr().out


def test_kill_9_ends_the_other(tmp_path: Path) -> None:
    with pair(*training(tmp_path / "run", "--config.train.stages[0].steps=9999")) as (first, other):
        until(first.stdout, "stage 1 of 2")
        other.kill()
        _, err = first.communicate(timeout=300)
    here = socket.gethostname()
    said = f"error: process 0 ({here}): process 1 ({here}) is gone, and nothing goes on without it"
    assert first.returncode == 1 and said in err.splitlines(), err  # a computation shared with it may fail as well


#: compares, then lets process 0 wait for a process 1 that comes too late
MEETING = """
import sys
from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.cluster.messages import same
words = dict(word[2:].split("=") for word in sys.argv[1:])
me = int(words["process"])
cluster.join(words["coordinator"], int(words["processes"]), me)
cluster.wait("the beginning")
same("nothing", {"seed": 1})
for say in (lambda: same("seeds", {"seed": me}), lambda: cluster.wait("lunch", 0.5)):
    try:
        say()
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
    if me:
        sys.stdin.readline()
sys.exit(cluster.leave(0))
"""


def test_who_differs_and_who_is_late_is_named() -> None:
    with pair(sys.executable, "-c", MEETING) as (first, other):
        assert first.stderr is not None
        said = [first.stderr.readline(), first.stderr.readline()]
        assert other.communicate("\n\n", timeout=300)[1] == "".join(said)  # too late for lunch
        assert first.communicate(timeout=300)[1] == ""
    here = socket.gethostname()
    assert said[0] == f"seed is 1 for process 1 ({here}) and 0 for process 0 ({here}); it must be the same\n"
    assert said[1] == f"at lunch: process 1 ({here}) did not come within 0.5 s; see what was said there\n"
    assert (first.returncode, other.returncode) == (0, 0)


#: each in a folder of its own, claims `run` there, which both have, then one that both see, then one that trains
CLAIMING = """
import os, sys
from pathlib import Path
from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.errors import UserError
from flexidit_jax.runs.workdir import claimed, record
folder, *words = sys.argv[1:]
words = dict(word[2:].split("=") for word in words)
cluster.join(words["coordinator"], int(words["processes"]), int(words["process"]))
os.chdir(f"{folder}/{words['process']}")
for workdir in (Path("run"), Path(folder, "shared"), Path(folder, "taken")):
    try:
        with claimed(workdir, {"seed": 1}):
            record(workdir, {"seed": 1})
    except UserError as error:
        print(error, file=sys.stderr, flush=True)
sys.exit(cluster.leave(0))
"""


def test_a_workdir_that_is_not_shared_or_trains_is_refused_by_all(tmp_path: Path) -> None:
    for process in "01":
        (tmp_path / process / "run").mkdir(parents=True)
    (tmp_path / "taken").mkdir()
    with (
        at_work(tmp_path / "taken", "-"),
        pair(sys.executable, "-c", CLAIMING, str(tmp_path)) as children,
    ):
        errors = [child.communicate(timeout=300)[1] for child in children]
    here = socket.gethostname()
    said = f"--workdir=run of process 0 ({here}) is not that of process 1 ({here}); name a folder that all hosts share"
    taken = f"another process is at work in {tmp_path / 'taken'}; wait for its end, or name another --workdir"
    assert errors == [f"{said}\n{taken}\n"] * 2
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / "shared" / "config.json"]


#: each reads its half of 40 records, of which 0, 1 and 20 to 22 are corrupt, process 1 after process 0
READING = """
import sys
from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress, warnings_said
from flexidit_jax.data.corrupt import Corrupt, Intact
class Source(list):
    def __getitem__(self, i):
        if i in (0, 1, 20, 21, 22):
            raise Corrupt(f"image {i}", "torn")
        return i
words = dict(word[2:].split("=") for word in sys.argv[1:])
me = int(words["process"])
cluster.join(words["coordinator"], int(words["processes"]), me)
source = Intact(Source(range(40)), 0.1)
with Progress(1, "reading", enabled=not me) as bar, warnings_said(bar):
    for reader in range(2):
        if me == reader:
            try:
                [source[i] for i in range(20 * me, 20 * me + 20)]
            except UserError as error:
                print(error, file=sys.stderr, flush=True)
        cluster.wait(f"reader {reader}")
    if not me:
        source[21]  # found by the other already
cluster.leave(0)
"""


def test_corrupt_records_are_counted_over_all_and_named_by_whoever_meets_them() -> None:
    with pair(sys.executable, "-c", READING) as (first, other):
        (out, err), (other_out, other_err) = first.communicate(timeout=300), other.communicate(timeout=300)
    assert (out.splitlines(), err) == (
        [f"corrupt, skipped ({i + 1} of at most 4): image {i} (torn)" for i in (0, 1)],
        "",
    )
    me = f"process 1 ({socket.gethostname()}): corrupt, skipped"
    assert (other_out, other_err.splitlines()) == (
        "",
        [
            f"{me} (3 of at most 4): image 20 (torn)",
            f"{me} (4 of at most 4): image 21 (torn)",
            "5 of 40 records are corrupt, more than dataset.max_corrupt=0.1 admits; the last is image 22 (torn);"
            " mend or remove them, or raise dataset.max_corrupt",
        ],
    )


#: three times the same command; says when it is held before a batch, and when it waits for the other
ENCODING = """
import sys
from flexidit_jax.codecs.sd_vae import Codec
from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.main import main

def say(words):
    print(words, file=sys.stderr, flush=True)

def moments(self, x):
    if held:
        held.clear()
        say("HELD")
        sys.stdin.readline()
    return real(self, x)

class Client:
    def __getattr__(self, name):
        return getattr(client(), name)

    def wait_at_barrier(self, name, *rest):
        say(f"WAITS at {name.rpartition('/')[2]}")
        return client().wait_at_barrier(name, *rest)

*words, coordinator, processes, process = sys.argv[1:]
me = int(process.partition("=")[2])
cluster.join(coordinator.partition("=")[2], int(processes.partition("=")[2]), me)
leave, client, real = cluster.leave, cluster.client, Codec.moments
cluster.join, cluster.leave = lambda *flags: None, lambda status, failed=False: status
cluster.client, Codec.moments = Client, moments
for held in ([0, 1], [0], []):
    held = [one for one in held if one == me]
    say(f"ENDED {main(words)}")
sys.exit(leave(0))
"""


def test_encoding_stops_as_one_and_goes_on(tmp_path: Path, vae_folder: Path) -> None:
    """A signal reaches one process: in the middle of a shard, then where it is done and waits for the other."""
    out = tmp_path / "latents"
    words = {"encode.shard": 2, "encode.batch": 1, "dataset.of.records": 11, "dataset.of.shape": (1, 32, 32, 3)}
    words |= {"model.latent": (1, 4, 4, 4), "codec.slice": 2, "codec.path": vae_folder, "dataset.path": out}
    config = (f"--config={ROOT / 'configs' / 'imagenet256_latents.py'}:smoke", "--mode=encode", "--stopped-status=75")
    flags = (*(f"--config.{key}={value}" for key, value in words.items()), f"--workdir={tmp_path / 'run'}")

    def shards() -> list[int]:
        return sorted(int(path.stem) for path in (out / "train" / "shards").iterdir())

    with pair(sys.executable, "-c", ENCODING, *config, *flags) as (first, other):
        for child in (first, other):
            until(child.stderr, "HELD")
        other.send_signal(signal.SIGTERM)
        until(other.stderr, "finishing this shard before stopping")
        for child in (first, other):
            release(child)
        assert [until(child.stderr, "ENDED") for child in (first, other)] == ["ENDED 75", "ENDED 75"]
        assert shards() == [0, 1]

        until(first.stderr, "HELD")
        until(other.stderr, "WAITS at the end of encoding")
        other.send_signal(signal.SIGTERM)
        until(other.stderr, "finishing this shard before stopping")
        release(first)
        assert [until(child.stderr, "ENDED") for child in (first, other)] == ["ENDED 75", "ENDED 75"]
        assert shards() == [0, 1, 2, 3, 5]

        said = first.communicate(timeout=300)[0]
        other.communicate(timeout=300)
    assert (first.returncode, other.returncode, shards()) == (0, 0, [0, 1, 2, 3, 4, 5])
    assert [line for line in said.splitlines() if line.startswith(f"{out}: stopped")] == [
        f"{out}: stopped, {there} of 11 images are there; the same command goes on" for there in (4, 9)
    ]


def test_the_command_for_one_process() -> None:
    words = ["--config=c.py", "--process", "1", "--coordinator=h:1", "--mode=train", "--workdir=a b", "--processes=2"]
    assert alone("report", words) == "python -m flexidit_jax.main --config=c.py '--workdir=a b' --mode=report"
