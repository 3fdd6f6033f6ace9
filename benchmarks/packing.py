"""Four ways to run guidance with two lengths: relative latency against relative FLOPs (FlexiDiT Fig. 12).

    python benchmarks/packing.py [--sizes S B] [--images 1 4 16 64] [--latent 32] [--depth 12] [--out runs/packing]

Random weights; one denoising step, powerful conditional prediction and weak guide, in every layout of
`flexidit_jax.sampling.packing`. The layouts run in turn and the median counts; both axes are relative
to "separate". Writes `packing.json` and, a row of panels per size, `packing.png`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from matplotlib.figure import Figure

from flexidit_jax.common.allocator import keep_freed_memory
from flexidit_jax.common.types import as_patch
from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.diffusion.solvers import ddpm
from flexidit_jax.models.build import SIZES, attention_of, build_dit, init
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flexify import flexify, patches_of
from flexidit_jax.sampling.calibration import Case, evaluation, machine, measure
from flexidit_jax.sampling.engine import Engine
from flexidit_jax.sampling.packing import LAYOUTS, layout_flops

MARKERS = {"separate": "o", "packed": "D", "joined": "s", "padded": "^"}


def build(size: str, latent: int, depth: int | None, patches: Sequence[str], dtype: str) -> tuple[DiT, Engine]:
    """A flexible model of a published size with nothing left at zero."""
    width, blocks, heads = SIZES[size]
    model = build_dit(
        (1, latent, latent, 4),
        {"name": "classes", "classes": 1000},
        patch=patches[0],
        width=width,
        depth=depth or blocks,
        num_heads=heads,
        dtype=dtype,
    )
    rng = np.random.default_rng(0)
    stored = flexify(init(model, jax.random.key(0)), map(as_patch, patches))
    stored = jax.tree.map(lambda leaf: leaf + np.float32(0.02) * rng.standard_normal(leaf.shape, "f"), stored)
    return model, Engine(model, stored, patches_of(stored))


def layouts(model: DiT, engine: Engine, patches: Sequence[str], images: int, repeats: int) -> dict[str, Any]:
    """Milliseconds and FLOPs of a step in every layout, absolute and relative to "separate"."""
    cond, guide = map(as_patch, patches)
    table = ddpm.table(Process(), 250)
    step = evaluation(engine, table, images)
    cases = {name: Case(cond, guide, name) for name in LAYOUTS}
    times = measure({name: lambda case=case: step(case) for name, case in cases.items()}, repeats)
    flops = {name: layout_flops(name, model, cond, guide, images) for name in LAYOUTS}
    return {
        name: {
            "milliseconds": times[name],
            "gflops": round(flops[name] / 1e9, 3),
            "relative_latency": round(times[name] / times["separate"], 4),
            "relative_flops": round(flops[name] / flops["separate"], 4),
        }
        for name in LAYOUTS
    }


def draw(result: Mapping[str, Any]) -> Figure:
    """One row of panels a size, one panel a number of images, one marker a layout."""
    sizes = result["sizes"]
    columns = max(map(len, sizes.values()))
    figure = Figure(figsize=(3 * columns + 0.6, 3 * len(sizes) + 0.8), layout="constrained")
    grid = figure.subplots(len(sizes), columns, sharex=True, sharey=True, squeeze=False)
    for panels, (size, by_images) in zip(grid, sizes.items(), strict=True):
        panels[0].set_ylabel(f"DiT-{size}: relative latency")
        for panel, (images, by_layout) in zip(panels, by_images.items(), strict=True):
            for name, marker in MARKERS.items():
                row = by_layout[name]
                panel.plot(row["relative_flops"], row["relative_latency"], marker, ms=8, alpha=0.8, label=name)
            panel.axhline(1, color="black", linewidth=0.6, linestyle=":")
            panel.set_title(f"{images} image{'' if images == '1' else 's'}", fontsize=10)
            panel.grid(alpha=0.3)
    for panel in grid[-1]:
        panel.set_xlabel("relative FLOPs")
    handles, names = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    cond, guide = result["patches"]
    figure.suptitle(f"A step at patch {cond}, guided by patch {guide}; relative to separate calls", fontsize=11)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["S"], choices=list(SIZES))
    parser.add_argument("--images", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--latent", type=int, default=32, help="side of the latent")
    parser.add_argument("--depth", type=int, help="blocks, instead of the size's own")
    parser.add_argument("--patches", nargs=2, default=["2", "4"], help="powerful, then weak")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, default=Path("runs/packing"))
    words = parser.parse_args()
    keep_freed_memory()
    sizes: dict[str, Any] = {}
    for size in words.sizes:
        model, engine = build(size, words.latent, words.depth, words.patches, words.dtype)
        sizes[size] = {}
        for images in words.images:
            sizes[size][str(images)] = layouts(model, engine, words.patches, images, words.repeats)
            print(size, images, json.dumps(sizes[size][str(images)]), flush=True)
    asked = {name: value for name, value in vars(words).items() if name not in ("out", "sizes")}
    result = {"machine": machine(), "attention": attention_of(model), **asked, "sizes": sizes}
    words.out.mkdir(parents=True, exist_ok=True)
    (words.out / "packing.json").write_text(json.dumps(result, indent=1) + "\n")
    draw(result).savefig(words.out / "packing.png", dpi=150)
    print(f"written: {words.out / 'packing.json'} and packing.png")


if __name__ == "__main__":
    main()
