"""Does a training run that is killed again and again end as one that never was? `kill -9` at random moments.

python benchmarks/kills.py                      # 25 kills, in the folder kills/
python benchmarks/kills.py --kills=3 --seed=7 --out=/tmp/kills

A small digits run is killed `--kills` times: at a random time of its start (imports, restoring, compiling), after a
random step, while a checkpoint is being written, and when the checkpoint's checksums are there but it has no name yet.
Then it is left alone, and compared with an unbroken run: parameters, average, optimizer and data position to the bit,
and every batch that any life of it trained on with the batch of that step. Exit status 1 where anything differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOMENTS = ("step", "save", "checksums", "step", "start")
#: most steps of a life that is killed at one; steps between saves
LIFE, EVERY = 12, 5

CONFIG = """
import runpy


def get_config():
    config = runpy.run_path({digits!r})["get_config"]("smoke")
    config.report = None
    for stage in config.train.stages:
        stage["steps"] = {steps}
    config.train.checkpoint_every = {every}
    return config
"""

#: one life: writes down each step and its batch's hash, and kills itself when it is told to
CHILD = """
import hashlib, os, signal, sys, threading
from flexidit_jax.jobs import train
from flexidit_jax.training.monitor.metric_log import MetricLog
from flexidit_jax.main import main
from flexidit_jax.runs import checkpoints as checkpoint
from flexidit_jax.training.monitor import monitor
from flexidit_jax.training.monitor.event_files import Writer

consumed, moment, count, delay = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
put_batch, add, save, record = train.put_batch, MetricLog.add, train.Checkpoints.save, checkpoint.record
seen, digest = {"step": 0, "save": 0, "checksums": 0}, None


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def reached(what):
    seen[what] += 1
    return what == moment and seen[what] == count


def put(batch, *rest, **named):
    global digest
    digest = hashlib.sha256(b"".join(batch[key].tobytes() for key in sorted(batch))).hexdigest()
    return put_batch(batch, *rest, **named)


def added(self, number, *rest, **named):
    with open(consumed, "a") as file:
        file.write(f"{number} {digest}\\n")
    if reached("step"):
        threading.Timer(delay, die).start()
    return add(self, number, *rest, **named)


def saved(self, *rest, **named):
    save(self, *rest, **named)
    if reached("save"):
        threading.Timer(delay, die).start()


def recorded(step):
    record(step)
    if reached("checksums"):
        die()


train.put_batch, MetricLog.add, train.Checkpoints.save, checkpoint.record = put, added, saved, recorded
monitor.event_files = lambda *_: (Writer(), lambda done: None)  # not compared, and TensorFlow is half of a start
sys.exit(main(sys.argv[5:]))
"""


class Run:
    """A training run in a folder of its own, one process at a time."""

    def __init__(self, folder: Path, config: Path, cache: Path) -> None:
        self.folder, self.consumed = folder, folder.with_name(folder.name + "_batches.txt")
        self._flags = [f"--config={config}", f"--workdir={folder}"]
        self._environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache))

    def live(self, moment: str = "never", count: int = 0, delay: float = 0.0) -> tuple[int, float]:
        """One process: its exit status, and the seconds from its start until it began to train."""
        own = "never" if moment == "start" else moment
        command = [sys.executable, "-c", CHILD, str(self.consumed), own, str(count), str(delay), *self._flags]
        began, booted = time.monotonic(), 0.0
        log = self.folder.with_name(self.folder.name + ".log")
        with log.open("a") as errors:
            child = subprocess.Popen(
                command, env=self._environment, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT
            )
            if moment == "start":
                try:
                    child.wait(timeout=delay)
                except subprocess.TimeoutExpired:
                    child.kill()
            for line in child.stdout:
                if line.startswith("stage ") and not booted:
                    booted = time.monotonic() - began
                errors.write(line)
            return child.wait(), booted

    def steps(self) -> list[Path]:
        from flexidit_jax.runs.recovery import steps_of

        return sorted(steps_of(self.folder), key=lambda path: int(path.name))

    def batches(self) -> dict[int, set[str]]:
        """Of every step that any life trained, the hashes of its batches."""
        found = defaultdict(set)
        for line in self.consumed.read_text().splitlines():
            number, digest = line.split()
            found[int(number)].add(digest)
        return found


def differences(run: Run, unbroken: Run, steps: int) -> list[str]:
    """What is not the same at the end of two runs."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    said = []
    ours, theirs = run.batches(), unbroken.batches()
    if sorted(theirs) != list(range(1, steps + 1)):
        said.append("the unbroken run did not train every step")
    said += [f"batch of step {n}" for n in sorted(theirs) if ours.get(n) != theirs[n]]
    newest, reference = run.steps()[-1], unbroken.steps()[-1]
    if (newest.name, reference.name) != (str(steps), str(steps)):
        return [*said, f"last checkpoints {newest.name} and {reference.name}, not {steps}"]
    metas = [json.loads((step / "meta" / "metadata").read_text()) for step in (newest, reference)]
    if metas[0] != metas[1]:
        said.append("data position or stage")
    with ocp.StandardCheckpointer() as reader:
        for part in ("params", "ema", "optimizer"):
            a, b = (reader.restore((step / part).resolve()) for step in (newest, reference))
            same = jax.tree.structure(a) == jax.tree.structure(b) and all(
                x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))
            )
            if not same:
                said.append(part)
    return said


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("kills"))
    words = parser.parse_args(argv)
    from flexidit_jax.runs.checksums import problem

    out, chance, began = words.out.resolve(), random.Random(words.seed), time.monotonic()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    config, steps = out / "config.py", 2 * (3 * words.kills + LIFE)  # kills up to near the end, in both stages
    digits = str(ROOT / "configs" / "digits.py")
    config.write_text(CONFIG.format(digits=digits, steps=steps // 2, every=EVERY))

    unbroken = Run(out / "unbroken", config, out / "cache")
    status, boot = unbroken.live()
    if status != 0:
        print(f"the unbroken run ended with status {status}; {out}/unbroken.log says why", file=sys.stderr)
        return 1

    run, kills, unfinished = Run(out / "killed", config, out / "cache"), Counter(), 0
    for i in range(words.kills):
        moment = MOMENTS[i % len(MOMENTS)]
        if moment == "start":
            status, _ = run.live(moment, delay=chance.uniform(0.1, 1.0) * boot)  # at most into the first steps
        else:
            count = chance.randint(1, LIFE) if moment == "step" else chance.randint(2, 3)  # so that it gets on
            status, booted = run.live(moment, count, chance.uniform(0, 0.1))
            boot = min(boot, booted)  # the unbroken run compiled
        if status != -signal.SIGKILL:
            print(f"killed at {moment!r} it ended with status {status}; {out}/killed.log says why", file=sys.stderr)
            return 1
        kills[moment] += 1
        done = run.steps()
        unfinished += any("tmp" in path.name for path in (run.folder / "checkpoints").glob("*"))
        if done and (wrong := problem(done[-1])):
            print(f"after a kill at {moment!r} step {done[-1].name} is not whole: {wrong}", file=sys.stderr)
            return 1
        print(f"kill {i + 1:2} at {moment:9}: step {done[-1].name if done else 'none'} of {steps} is whole", flush=True)

    status, _ = run.live()
    said = differences(run, unbroken, steps) if status == 0 else [f"it ended with status {status}"]
    retrained = sum(1 for _ in run.consumed.open()) - steps
    kinds = ", ".join(f"{n} at {moment}" for moment, n in kills.items())
    print(
        f"{sum(kills.values())} kills ({kinds}; {unfinished} left an unfinished checkpoint) in {steps} steps,"
        f" {retrained} trained again; {time.monotonic() - began:.0f} s"
    )
    print("differs: " + ", ".join(said) if said else "the same as the unbroken run, to the bit, batch for batch")
    return 1 if said else 0


if __name__ == "__main__":
    sys.exit(main())
