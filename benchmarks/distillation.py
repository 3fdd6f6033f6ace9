"""What a distillation step of a model of texts takes, by batch: seconds, and the memory that its program asks for.

    python benchmarks/distillation.py --size XL --batches 1 2 4 8 --out docs/speed

A PixArt of 256 pixels (120 tokens of 4,096 channels) with random weights learns patch 4 as an adapter of rank 32; the
powerful mode runs in the same step without gradient. float32 (`--dtype bfloat16` on a GPU). A plain matrix product runs
in turn with the steps, so that a change of the machine's pace meets both; medians count. Writes `distillation.json`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from speed import P2, P4, interleaved, matmul

from flexidit_jax.common.allocator import keep_freed_memory
from flexidit_jax.common.cores import cores
from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.models.build import attention_of, build_dit, init
from flexidit_jax.models.patch import tokens
from flexidit_jax.training.flops import training_flops
from flexidit_jax.training.losses.distillation import Loss
from flexidit_jax.training.optimizer import AdamW, Ema
from flexidit_jax.training.stages import Stage
from flexidit_jax.training.state import first_state
from flexidit_jax.training.step import make_step
from flexidit_jax.training.updates import UpdateCounts

TEXT = {"name": "text", "features": 4096, "length": 120, "null_length": 120, "null_mask": "caption"}


def measure(size: str, batch: int, dtype: str, remat: str, rank: int, repeats: int) -> dict[str, object]:
    """Seconds, memory and the share of the matmul rate of a step."""
    words = {"size": size, "modulation": "single", "span": 16.0, "dtype": dtype, "remat": remat}
    model = build_dit((1, 32, 32, 4), TEXT, patch=2, **words)
    stage = Stage(patches=(P2, P4), steps=10**6, adapters=rank, loss=Loss(), probabilities=(0.0, 1.0))
    optimizer = AdamW(weight_decay=1e-2, clip=0.02).build(stage.rate())
    step = make_step(model, Process(), stage.loss, optimizer, Ema(warmup=True), seed=0)
    state = jax.jit(lambda: first_state(init(model, jax.random.key(0)), stage, optimizer))()
    rng = np.random.default_rng(0)
    x0 = jnp.asarray(rng.standard_normal((batch, *model.latent)), jnp.float32)
    texts = [rng.standard_normal((25, 4096)).astype(np.float32) for _ in range(batch)]
    cond = jax.tree.map(jnp.asarray, model.conditioner.parse(texts))
    counts = UpdateCounts([stage], 0)
    memory = step.lower(state, x0, cond, 1, P4, counts.next(P4)).compile().memory_analysis()
    held = {"state": state}  # a step gives its state away
    del state

    def run() -> object:
        held["state"], metrics = step(held["state"], x0, cond, 1, P4, counts.next(P4))
        return held["state"], metrics

    product, product_flops = matmul(max(1024, batch * tokens(model.latent, P2)), model.width, dtype)
    seconds = interleaved({"step": run, "matmul": product}, repeats)
    flops = batch * training_flops(model, stage, P4)
    gib = {"arguments": memory.argument_size_in_bytes, "temporaries": memory.temp_size_in_bytes}
    return {
        "size": size,
        "batch": batch,
        "attention": attention_of(model),
        "seconds": round(seconds["step"], 3),
        "seconds_a_record": round(seconds["step"] / batch, 3),
        "share_of_matmul_rate": round(flops / seconds["step"] / (product_flops / seconds["matmul"]), 3),
        "gib": {name: round(count / 2**30, 2) for name, count in gib.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="XL")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--remat", default="dots")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("docs/speed"))
    args = parser.parse_args()
    keep_freed_memory()
    words = (args.dtype, args.remat, args.rank, args.repeats)
    result = {
        "command": " ".join(sys.argv),
        "machine": f"{platform.machine()}, {jax.devices()[0].device_kind}, {cores()} cores, jax {jax.__version__}",
        "rows": [measure(args.size, batch, *words) for batch in args.batches],
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "distillation.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
