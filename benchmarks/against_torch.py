"""Sampling steps against diffusers' DiT in torch, eager and compiled, on the same machine in one run.

    python benchmarks/against_torch.py --sizes S B --batches 1 8 32 --steps 10 --out docs/speed/against_torch.json

Every contender is a process of its own, and all are asked in turn for one chain of steps, so that a change of
the machine's pace meets all; medians count. Ours runs the whole sampling call (noise, solver, schedule), every step
powerful or every step weak; torch runs the network and DDPM's update. The time of a step at 46 % of the FLOPs is the
mean of the two over the 250 steps of `budget=0.46`. No guidance, float32 on a CPU. Needs torch and diffusers
(`pip install -e .[oracle]`) and a C++ compiler for torch.compile.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

CONTENDERS = ("jax powerful", "jax weak", "torch eager", "torch compile")
BUDGET = 0.46


def ours(size: str, batch: int, steps: int) -> dict[str, Callable[[], object]]:
    """Chains in both modes; the weights are random and nowhere zero."""
    from flexidit_jax.common.allocator import keep_freed_memory

    keep_freed_memory()
    import jax

    import flexidit_jax as fd
    from flexidit_jax.diffusion.gaussian import Process
    from flexidit_jax.models.build import init
    from flexidit_jax.models.flexify import flexify

    model = model_of(size)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.02 * rng.standard_normal(leaf.shape, np.float32),
        init(model, jax.random.key(0)),
    )
    flex = fd.FlexiDiT(model, flexify(params, [(1, 2, 2), (1, 4, 4)]), Process(), None)
    words = {"steps": steps, "guidance": 1.0, "decode": False, "progress": False}
    return {
        "jax powerful": lambda: flex.sample(range(batch), schedule=f"2:{steps}", **words),
        "jax weak": lambda: flex.sample(range(batch), schedule=f"4:{steps}", **words),
    }


def model_of(size: str) -> Any:
    """Our network."""
    from flexidit_jax.models.build import build_dit

    return build_dit((1, 32, 32, 4), {"name": "classes", "classes": 1000}, patch=2, size=size)


def weak_share(size: str) -> float:
    """Share of weak steps among the 250 of the budget."""
    from flexidit_jax.diffusion.gaussian import Process
    from flexidit_jax.models.flops import forward_flops
    from flexidit_jax.sampling.spec import SampleSpec

    model, patches = model_of(size), ((1, 2, 2), (1, 4, 4))
    spec = SampleSpec(steps=250, budget=BUDGET, guidance=1.0)
    chosen = spec.plan(patches, spec.table(Process()), lambda patch: forward_flops(model, patch))
    return dict(chosen.schedule)[patches[1]] / 250


def theirs(size: str, batch: int, steps: int, compiled: bool) -> Callable[[], object]:
    """A chain of diffusers' transformer at the same shapes, with DDPM's arithmetic after each call."""
    import torch
    from diffusers import DiTTransformer2DModel

    from flexidit_jax.models.build import SIZES

    width, depth, heads = SIZES[size]
    network = DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=4,
        out_channels=8,
        num_layers=depth,
        sample_size=32,
        patch_size=2,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
        activation_fn="gelu-approximate",
    ).eval()
    call = torch.compile(network) if compiled else network
    labels, times = torch.arange(batch), torch.linspace(999, 0, steps).long()

    @torch.no_grad()
    def chain() -> object:
        x = torch.randn(batch, 4, 32, 32)
        for t in times:
            eps, raw = call(x, timestep=t.expand(batch), class_labels=labels).sample.chunk(2, dim=1)
            x = 0.99 * x - 0.1 * eps + torch.exp(0.5 * (raw - 4)) * torch.randn_like(x)
        return x

    return chain


def worker(size: str, batch: int, steps: int, kind: str) -> None:
    """Answers each line on standard input, the name of a contender, with the seconds of one chain."""
    if kind == "jax":
        chains = ours(size, batch, steps)
    else:
        chains = {kind: theirs(size, batch, steps, compiled=kind == "torch compile")}
    for chain in chains.values():
        chain()  # compiles
    print("ready", flush=True)
    for line in sys.stdin:
        began = time.perf_counter()
        np.asarray(chains[line.strip()]())
        print(time.perf_counter() - began, flush=True)


def compare(size: str, batch: int, steps: int, repeats: int) -> dict[str, float]:
    """Median milliseconds of a step of every contender."""
    workers = {}
    for kind in ("jax", "torch eager", "torch compile"):
        command = [sys.executable, __file__, "--worker", kind, "--sizes", size]
        command += ["--batches", str(batch), "--steps", str(steps)]
        pipe = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        if pipe.stdout.readline().strip() != "ready":
            raise SystemExit(f"{kind} did not start")
        workers[kind] = pipe
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for _ in range(repeats):
        for name in CONTENDERS:
            pipe = workers["jax" if name.startswith("jax") else name]
            print(name, file=pipe.stdin, flush=True)
            seconds[name].append(float(pipe.stdout.readline()))
    for pipe in workers.values():
        pipe.stdin.close()
        pipe.wait()
    return {name: 1e3 * float(np.median(times)) / steps for name, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["S", "B"])
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        worker(args.sizes[0], args.batches[0], args.steps, args.worker)
        return
    rows = []
    for size in args.sizes:
        for batch in args.batches:
            ms = compare(size, batch, args.steps, args.repeats)
            best, share = min(ms["torch eager"], ms["torch compile"]), weak_share(size)
            ms["jax at 46 %"] = share * ms["jax weak"] + (1 - share) * ms["jax powerful"]
            ratios = {
                "faster_than_torch_at_100_percent": round(best / ms["jax powerful"], 2),
                "faster_than_torch_at_46_percent": round(best / ms["jax at 46 %"], 2),
            }
            rows.append({"size": size, "batch": batch, "ms": {k: round(v, 1) for k, v in ms.items()}, **ratios})
            print(json.dumps(rows[-1]), flush=True)
    from flexidit_jax.common.cores import cores
    from flexidit_jax.models.build import attention_of

    result = {
        "command": " ".join(sys.argv),
        "machine": f"{platform.machine()}, {cores()} cores",
        "attention": attention_of(model_of(args.sizes[0])),
        "steps": args.steps,
        "repeats": args.repeats,
        "budget": BUDGET,
        "rows": rows,
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
