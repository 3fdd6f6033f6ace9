"""How much of the machine a training step uses, and where the rest goes.

    python benchmarks/training.py --sizes S B --batches 8 32 --out docs/speed

Steps of every mode with shared parameters, the update alone (AdamW, the moving average and the choice of what a mode
leaves alone), and a plain matrix product are run in turn, so that a change of the machine's pace meets all; medians
count. Random weights, 32x32x4 latents, float32 (`--dtype bfloat16` on a GPU). Writes `training.json`.
`benchmarks/input.py` measures what reading images takes.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from speed import P2, P4, interleaved, matmul

from flexidit_jax.common.allocator import keep_freed_memory
from flexidit_jax.common.cores import cores
from flexidit_jax.common.types import short_patch_name
from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.models.build import attention_of, build_dit, init
from flexidit_jax.models.patch import tokens
from flexidit_jax.training.flops import training_flops
from flexidit_jax.training.losses.diffusion import Loss
from flexidit_jax.training.optimizer import AdamW, Ema
from flexidit_jax.training.stages import Stage
from flexidit_jax.training.state import first_state, updated
from flexidit_jax.training.step import make_step
from flexidit_jax.training.updates import UpdateCounts


def measure(size: str, batch: int, dtype: str, remat: str, unroll: int, repeats: int) -> dict[str, object]:
    """Milliseconds and shares of the matmul rate of a size's steps."""
    model = build_dit(
        (1, 32, 32, 4),
        {"name": "classes", "classes": 1000},
        patch=2,
        size=size,
        dtype=dtype,
        remat=remat,
        unroll=unroll,
    )
    stage = Stage(patches=(P2, P4), steps=10**6, loss=Loss())
    optimizer, ema = AdamW().build(stage.rate()), Ema()
    step = make_step(model, Process(), stage.loss, optimizer, ema, seed=0)
    state = first_state(init(model, jax.random.key(0)), stage, optimizer)
    rng = np.random.default_rng(0)
    x0 = jnp.asarray(rng.standard_normal((batch, *model.latent)), jnp.float32)
    cond = jax.tree.map(jnp.asarray, model.conditioner.parse(rng.integers(0, 1000, batch)))
    counts = UpdateCounts([stage], 0)
    held = {"state": state}  # a step gives its state away

    def trained(patch: tuple[int, int, int]) -> Callable[[], object]:
        def run() -> object:
            held["state"], metrics = step(held["state"], x0, cond, 1, patch, counts.next(patch))
            return held["state"], metrics

        return run

    update = jax.jit(
        lambda state, gradients: updated(state, gradients, optimizer, ema, P2, counts.next(P2)), donate_argnames="state"
    )

    def update_alone() -> object:
        held["state"] = update(held["state"], gradients)
        return held["state"]

    gradients = jax.tree.map(jnp.ones_like, state.params)
    product, product_flops = matmul(max(1024, batch * tokens(model.latent, P2)), model.width, dtype)
    runs = {short_patch_name(patch): trained(patch) for patch in stage.patches}
    seconds = interleaved({**runs, "update": update_alone, "matmul": product}, repeats)
    rate = product_flops / seconds["matmul"]
    flops = {short_patch_name(patch): batch * training_flops(model, stage, patch) for patch in stage.patches}
    return {
        "size": size,
        "batch": batch,
        "attention": attention_of(model),
        "remat": remat,
        "matmul_gflops": round(rate / 1e9, 1),
        "ms": {name: round(1e3 * seconds[name], 1) for name in (*runs, "update")},
        "share_of_matmul_rate": {name: round(flops[name] / seconds[name] / rate, 3) for name in runs},
        "weak_over_powerful": {
            "seconds": round(seconds["4"] / seconds["2"], 3),
            "flops": round(flops["4"] / flops["2"], 3),
        },
        "update_share": {name: round(seconds["update"] / seconds[name], 3) for name in runs},
        "samples_per_second": {name: round(batch / seconds[name], 2) for name in runs},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["S", "B"])
    parser.add_argument("--batches", type=int, nargs="+", default=[8])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--remat", default="none")
    parser.add_argument("--unroll", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("docs/speed"))
    args = parser.parse_args()
    keep_freed_memory()
    words = (args.dtype, args.remat, args.unroll, args.repeats)
    result = {
        "command": " ".join(sys.argv),
        "machine": f"{platform.machine()}, {jax.devices()[0].device_kind}, {cores()} cores, jax {jax.__version__}",
        "rows": [measure(size, batch, *words) for size in args.sizes for batch in args.batches],
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "training.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
