"""Temporaries of one training step against `train.accumulate` and `model.remat`: compiled for this machine, not run.

python benchmarks/accumulate.py                      # DiT-S/2, batch 64, the powerful mode
"""

from __future__ import annotations

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import optax

from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.models.build import build_dit, init
from flexidit_jax.models.conditioning.condition import shapes
from flexidit_jax.training.losses.diffusion import Loss
from flexidit_jax.training.optimizer import Ema
from flexidit_jax.training.stages import Stage
from flexidit_jax.training.state import abstract
from flexidit_jax.training.step import make_step
from flexidit_jax.training.updates import UpdateCounts


def temporaries(size: str, batch: int, accumulate: int, remat: str) -> int:
    """Bytes of temporaries of the compiled step."""
    model = build_dit((1, 32, 32, 4), {"name": "classes", "classes": 1000}, size=size, remat=remat)
    optimizer = optax.adamw(1e-4)
    state = abstract(partial(init, model, jax.random.key(0)), Stage(((1, 2, 2), (1, 4, 4)), 1), optimizer)
    step = make_step(model, Process(), Loss(), optimizer, Ema(), 0, accumulate=accumulate)
    x, cond = jax.ShapeDtypeStruct((batch, *model.latent), jnp.float32), shapes(model.conditioner, batch)
    counts = UpdateCounts((), 0).next(model.patch)
    return step.lower(state, x, cond, 0, model.patch, counts).compile().memory_analysis().temp_size_in_bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="S")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--accumulate", type=int, nargs="+", default=[1, 2, 4])
    words = parser.parse_args()
    print("GiB of temporaries\n\n| accumulate | none | dots | full |\n|---|---|---|---|")
    for parts in words.accumulate:
        sizes = [temporaries(words.size, words.batch, parts, remat) / 2**30 for remat in ("none", "dots", "full")]
        print(f"| {parts} | " + " | ".join(f"{size:.2f}" for size in sizes) + " |", flush=True)


if __name__ == "__main__":
    main()
