"""What glibc's habit of returning freed memory costs a training step of the digits model on the CPU.

python benchmarks/allocator.py            # both, in turn, each in a process of its own
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

STEPS = 60


def measure(keep: bool) -> dict[str, float]:
    """Median milliseconds, page faults and share of kernel time of a powerful step."""
    if keep:
        from flexidit_jax.common.allocator import keep_freed_memory

        assert keep_freed_memory()
    import jax
    import numpy as np

    from flexidit_jax.common.config import load_config
    from flexidit_jax.experiment.experiment import build_experiment
    from flexidit_jax.models.build import init
    from flexidit_jax.training.state import first_state
    from flexidit_jax.training.step import make_step
    from flexidit_jax.training.updates import UpdateCounts

    experiment = build_experiment(load_config(str(Path(__file__).parents[1] / "configs" / "digits.py")))
    stage = experiment.train.stages[0]
    optimizer = experiment.train.optimizer.build(stage.rate())
    state = first_state(init(experiment.model, jax.random.key(0)), stage, optimizer)
    step = make_step(experiment.model, experiment.process, stage.loss, optimizer, experiment.train.ema, 0)
    x = np.random.default_rng(0).normal(size=(experiment.train.batch, *experiment.model.latent)).astype(np.float32)
    cond = experiment.model.conditioner.parse([0] * experiment.train.batch)
    times, counts = [], UpdateCounts(experiment.train.stages, 0)
    for i in range(STEPS + 3):
        if i == 3:
            before = resource.getrusage(resource.RUSAGE_SELF)
        clock = time.perf_counter()
        state, metrics = step(state, x, cond, i, stage.patches[0], counts.next(stage.patches[0]))
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - clock)
    after = resource.getrusage(resource.RUSAGE_SELF)
    user, kernel = after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime
    return {
        "milliseconds": 1e3 * float(np.median(times[3:])),
        "page_faults": (after.ru_minflt - before.ru_minflt) / STEPS,
        "kernel_share": kernel / (user + kernel),
    }


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1] == "keep")))
        return
    for _ in range(2):
        for name in ("return", "keep"):
            out = subprocess.run([sys.executable, __file__, name], capture_output=True, text=True, check=True)
            print(name, out.stdout.splitlines()[-1], flush=True)


if __name__ == "__main__":
    main()
