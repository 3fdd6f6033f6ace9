"""What each device holds of a training state, against the fsdp axis: from the shardings themselves, nothing computed.

python benchmarks/sharding.py                                  # DiT-XL/2 with patches 2 and 4
python benchmarks/sharding.py --adapters=32 --fsdp 1 8 64      # its adapters; the pre-trained weights are frozen
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from functools import partial

import jax
import optax

from flexidit_jax.common.trees import map_named
from flexidit_jax.models.build import build_dit, init
from flexidit_jax.training.sharding import spec
from flexidit_jax.training.stages import Stage
from flexidit_jax.training.state import TrainState, abstract

PARTS = ("params", "frozen", "ema", "optimizer")


def held(state: TrainState, fsdp: int, tensor: int = 1) -> dict[str, int]:
    """Bytes a device holds of each part of a state."""
    mesh = jax.sharding.AbstractMesh((1, fsdp, tensor), ("data", "fsdp", "tensor"))
    total: dict[str, int] = defaultdict(int)

    def add(path: str, leaf: jax.ShapeDtypeStruct) -> None:
        sharding = jax.sharding.NamedSharding(mesh, spec(path, leaf.shape, mesh))
        total[path.split("/")[0]] += math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    map_named(add, state)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="XL")
    parser.add_argument("--adapters", type=int, help="LoRA rank; shared parameters without")
    parser.add_argument("--fsdp", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--tensor", type=int, default=1)
    words = parser.parse_args()
    model = build_dit((1, 32, 32, 4), {"name": "classes", "classes": 1000}, size=words.size)
    stage = Stage(((1, 2, 2), (1, 4, 4)), 1, adapters=words.adapters)
    state = abstract(partial(init, model, jax.random.key(0)), stage, optax.adamw(1e-4))
    print("MiB a device\n\n| fsdp | parameters | frozen | EMA | optimizer | together |\n|---|---|---|---|---|---|")
    for fsdp in words.fsdp:
        sizes = [held(state, fsdp, words.tensor)[part] / 2**20 for part in PARTS]
        print(f"| {fsdp} | " + " | ".join(f"{size:,.1f}" for size in [*sizes, sum(sizes)]) + " |")


if __name__ == "__main__":
    main()
