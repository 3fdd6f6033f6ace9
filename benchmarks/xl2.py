"""DiT-XL/2 with random weights, for real: export, import, flexify, one powerful and one weak step.

    python benchmarks/xl2.py [--file /tmp/xl2.pt] [--batch 2]

Writes a published-layout file of 2.7 GB, reads it back as a user would, and prints one line of JSON:
seconds of each stage, milliseconds of a step in each mode, their ratio beside that of the FLOPs, and
the peak memory of the process. `.safetensors` needs no torch.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import flexidit_jax as fd
from flexidit_jax.common.allocator import keep_freed_memory
from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.models.build import attention_of, build_dit, init
from flexidit_jax.models.flexify import flexify
from flexidit_jax.models.flops import forward_flops


def step_seconds(flex: fd.FlexiDiT, patch: int, batch: int, repeats: int) -> float:
    """Median seconds of one call of a mode, without compilation."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch, 32, 32, 4)).astype(np.float32)
    times = []
    for _ in range(repeats + 1):
        clock = time.perf_counter()
        jax.block_until_ready(flex.predict(x, np.full(batch, 500), [207] * batch, patch=patch))
        times.append(time.perf_counter() - clock)
    return float(np.median(times[1:]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=Path(tempfile.gettempdir()) / "xl2.pt")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    words = parser.parse_args()
    keep_freed_memory()
    took = {}

    def timed(name: str, since: float) -> float:
        now = time.perf_counter()
        took[name] = round(now - since, 1)
        return now

    clock = time.perf_counter()
    model = build_dit((1, 32, 32, 4), {"name": "classes", "classes": 1000}, patch=2, size="XL")
    params = init(model, jax.random.key(0))
    rng = np.random.default_rng(0)  # nothing left at zero, so that every layer has an effect
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf) + np.float32(0.02) * rng.standard_normal(leaf.shape, "f"), params
    )
    clock = timed("init", clock)
    fd.FlexiDiT(model, flexify(params, [model.patch]), Process(), None).export(words.file)
    del params
    clock = timed("export", clock)
    dit = fd.load(words.file)
    clock = timed("import", clock)
    flex = dit.flexify((2, 4))
    del dit
    jax.block_until_ready(flex.params)
    timed("flexify", clock)
    seconds = {patch: step_seconds(flex, patch, words.batch, words.repeats) for patch in (2, 4)}
    flops = {patch: forward_flops(flex.model, (1, patch, patch)) for patch in (2, 4)}
    result = {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(flex.params)),
        "attention": attention_of(flex.model),
        "batch": words.batch,
        "seconds": took,
        "powerful_ms": round(1e3 * seconds[2]),
        "weak_ms": round(1e3 * seconds[4]),
        "time_ratio": round(seconds[4] / seconds[2], 3),
        "flops_ratio": round(flops[4] / flops[2], 3),
        "powerful_gflops_per_second": round(words.batch * flops[2] / seconds[2] / 1e9),
        "peak_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
