"""What an adapter mode costs: FLOPs and memory of weights, merged and unmerged, and the size of its file.

    python benchmarks/adapters.py --size XL --rank 32

Random weights; patches 2 and 4 of a 32x32x4 latent. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from pathlib import Path

import jax

import flexidit_jax as fd
from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.models.build import SIZES, build_dit, init
from flexidit_jax.models.flexify import flexify


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="XL", choices=SIZES)
    parser.add_argument("--rank", type=int, default=32)
    args = parser.parse_args()
    model = build_dit((1, 32, 32, 4), {"name": "classes", "classes": 1000}, patch=2, size=args.size)
    params = flexify(init(model, jax.random.key(0)), [(1, 2, 2), (1, 4, 4)], args.rank)
    merged = fd.FlexiDiT(model, params, Process(), None)
    with tempfile.TemporaryDirectory() as folder:
        merged.save(folder, adapters_only=True)
        file = (Path(folder) / "model.safetensors").stat().st_size
    result = {"size": args.size, "rank": args.rank, "adapters_file_mib": round(file / 2**20, 1)}
    for name, flex in (("merged", merged), ("unmerged", dataclasses.replace(merged, merge_adapters=False))):
        weak = flex.flops(steps=1, schedule="4:1", guidance=1)
        result[name] = {
            "weak_gflops": round(weak.total / 1e9, 2),
            "weak_percent_of_powerful": round(100 * weak.relative, 1),
            "weights_mib_of_both_modes": round(flex.sampling_bytes / 2**20),
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
