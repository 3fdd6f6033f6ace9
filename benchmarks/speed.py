"""How much of the machine a denoising step uses, and whether weak steps are as cheap as their FLOPs say.

    python benchmarks/speed.py --size S --batches 1 8 32 --out docs/speed

Every kind of step (a mode alone, with itself as guide, with a weaker guide) and a plain matrix product are run
in turn, so that a change of the machine's pace meets all; medians count. Writes `speed.json`, and `roofline.png`
(FlexiDiT Fig. 9): FLOP/s over arithmetic intensity, under the matmul rate and the memory bandwidth measured in
the same run. Random weights, 32x32x4 latents, float32 (`--dtype bfloat16` on a GPU).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

import flexidit_jax as fd
from flexidit_jax.common.allocator import keep_freed_memory
from flexidit_jax.common.cores import cores
from flexidit_jax.common.types import short_patch_name
from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.diffusion.solvers import make_table
from flexidit_jax.models.build import attention_of, build_dit, init
from flexidit_jax.models.flexify import flexify
from flexidit_jax.models.flops import forward_flops
from flexidit_jax.models.patch import tokens
from flexidit_jax.sampling.calibration import Case, evaluation
from flexidit_jax.sampling.engine import compiled_programs

P2, P4 = (1, 2, 2), (1, 4, 4)
CASES = {
    "2": Case(P2, None, "separate"),
    "4": Case(P4, None, "separate"),
    "2+2": Case(P2, P2, "separate"),
    "2+4": Case(P2, P4, "separate"),
    "4+4": Case(P4, P4, "separate"),
}
#: the published schedules of DiT-XL/2 (method, section 8): words of a plan
SCHEDULES = {
    "130/130": {"schedule": "130/130", "guidance": 1.5},
    "70/70": {"schedule": "70/70", "guidance": 1.5},
    "90/50": {"schedule": "90/50", "guidance": 1.5},
    "30/0": {"schedule": "30/0", "guidance": 1.5},
    "50 weak": {"schedule": "4:50,2:200", "guidance": 1.0},
    "100 weak": {"schedule": "4:100,2:150", "guidance": 1.0},
    "150 weak": {"schedule": "4:150,2:100", "guidance": 1.0},
}


def build(size: str, dtype: str) -> fd.FlexiDiT:
    """A flexible DiT with random weights, none of them zero."""
    model = build_dit((1, 32, 32, 4), {"name": "classes", "classes": 1000}, patch=2, size=size, dtype=dtype)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf) + 0.02 * rng.standard_normal(leaf.shape, np.float32),
        init(model, jax.random.key(0)),
    )
    return fd.FlexiDiT(model, flexify(params, [P2, P4]), Process(), None)


def interleaved(runs: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, run in turn after two warm runs."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + 2):
        for name, run in runs.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            if turn >= 2:
                seconds[name].append(time.perf_counter() - began)
    return {name: float(np.median(times)) for name, times in seconds.items()}


def matmul(rows: int, width: int, dtype: str) -> tuple[Callable[[], object], float]:
    """A product shaped like the first half of the MLP, and its FLOPs."""
    a, b = jnp.ones((rows, width), dtype), jnp.ones((width, 4 * width), dtype)
    product = jax.jit(lambda a, b: jnp.matmul(a, b, precision="highest" if dtype == "float32" else None))
    return lambda: product(a, b), 8.0 * rows * width**2


def bandwidth(megabytes: int = 512) -> tuple[Callable[[], object], float]:
    """A copy larger than any cache, and the bytes it moves."""
    x = jnp.ones(megabytes * 2**18, jnp.float32)
    scaled = jax.jit(lambda x: x * 2)
    return lambda: scaled(x), 2.0 * x.nbytes


def measure(flex: fd.FlexiDiT, batch: int, repeats: int) -> dict[str, object]:
    """Milliseconds of every kind of step at a batch size, beside the matmul rate of the same run."""
    run = evaluation(flex._engine, make_table("ddpm", flex.process, 250), batch)
    product, product_flops = matmul(
        max(1024, batch * tokens(flex.model.latent, P2)), flex.model.width, flex.model.dtype
    )
    copy, copied = bandwidth()
    runs = {name: lambda case=case: run(case) for name, case in CASES.items()}
    seconds = interleaved({**runs, "matmul": product, "copy": copy}, repeats)
    rate = product_flops / seconds["matmul"]
    flops = {name: batch * step_flops(flex, case) for name, case in CASES.items()}
    shares = {}
    for name, words in SCHEDULES.items():
        plan = flex.plan(steps=250, **words)
        counts = {run.pair: 0 for run in plan.segments}
        for segment in plan.segments:
            counts[segment.pair] += segment.stop - segment.start
        kinds = {case[:2]: kind for kind, case in CASES.items()}
        taken = sum(seconds[kinds[pair]] * n for pair, n in counts.items())
        full = seconds["2+2" if plan.guide else "2"] * 250
        shares[name] = {
            "flops_percent": round(100 * plan.relative_cost(P2, flex._cost), 1),
            "seconds_percent": round(100 * taken / full, 1),
        }
    return {
        "batch": batch,
        "matmul_gflops": round(rate / 1e9, 1),
        "copy_gb_per_second": round(copied / seconds["copy"] / 1e9, 1),
        "ms": {name: round(1e3 * seconds[name], 2) for name in CASES},
        "share_of_matmul_rate": {name: round(flops[name] / seconds[name] / rate, 3) for name in CASES},
        "flop_per_byte": {name: round(flops[name] / step_bytes(flex, case, batch), 1) for name, case in CASES.items()},
        "schedules": shares,
    }


def step_flops(flex: fd.FlexiDiT, case: Case) -> float:
    """FLOPs of one sample in a step."""
    return sum(forward_flops(flex.model, patch) for patch in case[:2] if patch is not None)


def step_bytes(flex: fd.FlexiDiT, case: Case, batch: int) -> float:
    """The least a step must move: each call's weights once, and its activations once in and out of every product."""
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(flex.params["trunk"]))
    size = jnp.dtype(flex.model.dtype).itemsize
    total = 0.0
    for call in {patch for patch in case[:2] if patch is not None}:
        samples = batch * sum(patch == call for patch in case[:2])
        # per token and block: qkv 1 -> 3, attention 3 -> 1, proj 1 -> 1, fc1 1 -> 4, fc2 4 -> 1, in units of d
        total += weights + samples * tokens(flex.model.latent, call) * flex.model.depth * flex.model.width * 20 * size
    return total


def compile_seconds(sizes: tuple[str, ...], dtype: str) -> dict[str, float]:
    """Seconds to lower and compile the powerful, unguided call, without a cache."""
    seconds = {}
    for size in sizes:
        model = build_dit((1, 32, 32, 4), {"name": "classes", "classes": 1000}, patch=2, size=size, dtype=dtype)
        shapes = jax.eval_shape(lambda model=model: init(model, jax.random.key(0)))
        x, t = model.example(1)
        began = time.perf_counter()
        jax.jit(model.apply).lower({"params": shapes}, x, t[:1], model.conditioner.parse([0])).compile()
        seconds[size] = round(time.perf_counter() - began, 2)
    return seconds


def recompilations() -> dict[str, int]:
    """Programs compiled by the first sampling calls, and by 60 more over budgets, steps, scales and solvers."""
    model = build_dit((1, 8, 8, 4), {"name": "classes", "classes": 10}, width=32, depth=2, num_heads=2)
    flex = fd.FlexiDiT(model, flexify(init(model, jax.random.key(0)), [P2, P4]), Process(), None)
    words = {"decode": False, "progress": False}
    before = compiled_programs()
    flex.sample([1], steps=4, schedule="4:2,2:2", guidance=1.5, **words)
    first = compiled_programs() - before
    for i, budget in enumerate(np.linspace(0.35, 1, 20)):
        for solver in ("ddpm", "ddim", "dpmpp_2m"):
            flex.sample([1], steps=4 + i, budget=float(budget), guidance=1.1 + i / 10, solver=solver, **words)
    return {"first": first, "after": compiled_programs() - before - first, "calls": 60}


def roofline(rows: list[dict], size: str) -> Figure:
    """FLOP/s over FLOPs per byte for every mode and batch."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    panel = figure.subplots()
    rate = max(row["matmul_gflops"] for row in rows)
    gigabytes = max(row["copy_gb_per_second"] for row in rows)
    intensity = np.geomspace(1, 2000, 200)
    panel.plot(intensity, np.minimum(rate, gigabytes * intensity), color="black", label="measured roof")
    for kind, colour, offset in (("2", "tab:blue", (8, -4)), ("4", "tab:orange", (-50, 4))):
        for row in rows:
            at = row["flop_per_byte"][kind], row["share_of_matmul_rate"][kind] * row["matmul_gflops"]
            panel.plot(*at, marker="o", color=colour, label=f"patch {kind}" if row is rows[0] else None)
            panel.annotate(f"batch {row['batch']}", at, textcoords="offset points", xytext=offset, fontsize=8)
    panel.set(xscale="log", yscale="log", xlabel="FLOPs per byte (weights and activations once)", ylabel="GFLOP/s")
    panel.set_title(f"DiT-{size}/2 on {platform.machine()}: a step of each mode", fontsize=10)
    panel.grid(alpha=0.3, which="both")
    panel.legend()
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="S")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--compile", nargs="*", default=["S", "XL"], help="sizes whose compilation is timed")
    parser.add_argument("--out", type=Path, default=Path("docs/speed"))
    args = parser.parse_args()
    keep_freed_memory()
    flex = build(args.size, args.dtype)
    rows = [measure(flex, batch, args.repeats) for batch in args.batches]
    result = {
        "command": " ".join(sys.argv),
        "machine": f"{platform.machine()}, {jax.devices()[0].device_kind}, {cores()} cores, jax {jax.__version__}",
        "attention": attention_of(flex.model),
        "size": args.size,
        "modes": [short_patch_name(patch) for patch in flex.patches],
        "rows": rows,
        "compile_seconds": compile_seconds(tuple(args.compile), args.dtype),
        "programs": recompilations(),
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "speed.json").write_text(json.dumps(result, indent=1) + "\n")
    roofline(rows, args.size).savefig(args.out / "roofline.png", dpi=120)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
