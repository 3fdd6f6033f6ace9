"""Where the time of a block goes: each part of one transformer block alone, beside the block itself.

    python benchmarks/block_parts.py --size S --batches 1 8

The parts are run in turn with the block, medians count; a part alone reads its inputs from memory, so their sum may
exceed the block. Prints a table of milliseconds and GFLOP/s for the token counts of patches 2 and 4 of a 32x32
latent, float32.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.allocator import keep_freed_memory
from flexidit_jax.common.types import Array
from flexidit_jax.models.attention.backend import attend
from flexidit_jax.models.blocks import Block
from flexidit_jax.models.build import SIZES
from flexidit_jax.models.layers import layer_norm

Part = tuple[Callable[[], Array], float]


def parts_of(batch: int, tokens: int, width: int, heads: int) -> dict[str, Part]:
    """name -> (function, FLOPs)."""
    rng = np.random.default_rng(0)

    def random(*shape: int) -> Array:
        return jnp.asarray(rng.standard_normal(shape) / 10, jnp.float32)

    def part(flops: float, function: Callable[..., Array], *args: Array) -> Part:
        compiled = jax.jit(function)
        return lambda: compiled(*args), flops

    def dense(inputs: int, outputs: int) -> Part:
        return part(2 * n * inputs * outputs, jnp.matmul, random(n, inputs), random(inputs, outputs))

    n, d = batch * tokens, width
    x, c = random(batch, tokens, d), random(batch, d)
    block = Block(heads, 4, jnp.dtype("float32"), "xla")
    params = jax.tree.map(lambda leaf: random(*leaf.shape), jax.eval_shape(block.init, jax.random.key(0), x, c))
    q, k, v = (random(batch, tokens, heads, d // heads) for _ in range(3))
    macs = 12 * n * d**2 + 2 * n * tokens * d + 6 * batch * d**2
    return {
        "block": part(2 * macs, lambda p, x, c: block.apply(p, x, c)[0], params, x, c),
        "qkv": dense(d, 3 * d),
        "attention": part(4 * n * tokens * d, lambda q, k, v: attend("auto", q, k, v), q, k, v),
        "(attention of jax.nn)": part(4 * n * tokens * d, jax.nn.dot_product_attention, q, k, v),
        "proj": dense(d, d),
        "fc1": dense(d, 4 * d),
        "gelu": part(0, lambda x: nn.gelu(x, approximate=True), random(n, 4 * d)),
        "fc2": dense(4 * d, d),
        "norm, scale, shift (one of two)": part(0, lambda x, c: layer_norm(x) * (1 + c[:, None]) + c[:, None], x, c),
        "modulation": part(12 * batch * d**2, jnp.matmul, c, random(d, 6 * d)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="S", choices=SIZES)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--repeats", type=int, default=25)
    args = parser.parse_args()
    keep_freed_memory()
    jax.config.update("jax_default_matmul_precision", "highest")
    width, _, heads = SIZES[args.size]
    for batch in args.batches:
        for patch in (2, 4):
            parts = parts_of(batch, (32 // patch) ** 2, width, heads)
            seconds: dict[str, list[float]] = {name: [] for name in parts}
            for turn in range(args.repeats + 2):
                for name, (run, _) in parts.items():
                    began = time.perf_counter()
                    jax.block_until_ready(run())
                    if turn >= 2:
                        seconds[name].append(time.perf_counter() - began)
            print(f"\nbatch {batch}, patch {patch}\n\n| part | ms | % of the block | GFLOP/s |\n|---|---|---|---|")
            whole = np.median(seconds["block"])
            for name, (_, flops) in parts.items():
                taken = np.median(seconds[name])
                rate = f"{flops / taken / 1e9:.0f}" if flops else ""
                print(f"| {name} | {1e3 * taken:.2f} | {100 * taken / whole:.0f} | {rate} |")


if __name__ == "__main__":
    main()
