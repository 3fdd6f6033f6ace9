"""What bfloat16 does to a chain: ours with either residual stream, beside torch's autocast of the same weights.

    python benchmarks/precision.py --sizes S B --out docs/speed/precision.json

Every contender predicts the noise in the same chain of deterministic DDIM steps, written here, from the same noise and
labels; it is held against the chain of float32 networks. An error is the root mean square of the difference over that
of the result, and a spread is the standard deviation over seeds. Weights are random and nowhere zero. Needs torch and
diffusers (`pip install -e .[oracle]`).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

import flexidit_jax as fd
from flexidit_jax.common.cores import cores
from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.diffusion.solvers import make_table
from flexidit_jax.models.build import build_dit, init
from flexidit_jax.models.flexify import flexify

#: x [B, 4, 32, 32] and a time -> noise of the same shape
Network = Callable[[np.ndarray, int], np.ndarray]


def made(size: str, scale: float) -> fd.FlexiDiT:
    """A float32 model of random weights."""
    model = build_dit((1, 32, 32, 4), {"name": "classes", "classes": 1000}, patch=2, size=size)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf) + scale * rng.standard_normal(leaf.shape, np.float32),
        init(model, jax.random.key(0)),
    )
    return fd.FlexiDiT(model, flexify(params, [(1, 2, 2)]), Process(), None)


def ours(flex: fd.FlexiDiT, labels: np.ndarray, **keys: str) -> Network:
    """Our network in a precision."""
    flex = fd.FlexiDiT(flex.model.clone(**keys), flex.params, flex.process, None)

    def network(x: np.ndarray, t: int) -> np.ndarray:
        return np.asarray(flex.predict(np.moveaxis(x, 1, -1)[:, None], np.full(len(x), t), labels).output)

    return lambda x, t: np.moveaxis(network(x, t)[:, 0], -1, 1)


def theirs(flex: fd.FlexiDiT, labels: np.ndarray, autocast: bool) -> Network:
    """diffusers' network of the same weights."""
    import torch
    from diffusers import DiTTransformer2DModel

    with tempfile.TemporaryDirectory() as folder:
        flex.export(Path(folder) / "model")
        network = DiTTransformer2DModel.from_pretrained(Path(folder) / "model").eval()
    for block in network.transformer_blocks:  # as the paper's authors have it, and unlike diffusers by default
        block.norm1.emb.time_proj.downscale_freq_shift = 0

    @torch.no_grad()
    def predicted(x: np.ndarray, t: int) -> np.ndarray:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = network(torch.from_numpy(x), torch.full((len(x),), t), torch.from_numpy(labels)).sample
        return out[:, :4].float().numpy()

    return predicted


def chain(network: Network, noise: np.ndarray, steps: int) -> np.ndarray:
    """x_0 of deterministic DDIM steps."""
    table, x = make_table("ddim", Process(), steps), noise
    for i, t in enumerate(table.t):
        clean = table.x0_from_x[i] * x + table.x0_from_output[i] * network(x.astype(np.float32), int(t))
        x = table.cx[i] * x + table.c0[i] * clean
    return x


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["S", "B"])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=0.02, help="of what is added to every weight")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    labels, rows = np.arange(args.batch), []
    for size in args.sizes:
        flex = made(size, args.scale)
        bf16 = {"dtype": "bfloat16"}
        contenders = {
            "ours, residual float32": (ours(flex, labels, **bf16), ours(flex, labels)),
            "ours, residual bfloat16": (ours(flex, labels, **bf16, residual="bfloat16"), ours(flex, labels)),
            "torch autocast": (theirs(flex, labels, True), theirs(flex, labels, False)),
            "torch float32 against ours": (theirs(flex, labels, False), ours(flex, labels)),
        }
        for name, (network, reference) in contenders.items():
            errors = []
            for seed in range(args.seeds):
                noise = np.random.default_rng(seed).standard_normal((args.batch, 4, 32, 32))
                right = chain(reference, noise, args.steps)
                errors.append(
                    float(np.sqrt(np.mean((chain(network, noise, args.steps) - right) ** 2) / np.mean(right**2)))
                )
            one = {"size": size, "contender": name, "error": float(np.mean(errors)), "spread": float(np.std(errors))}
            rows.append(one)
            print(json.dumps(one), flush=True)
    result = {
        "command": " ".join(sys.argv),
        "machine": f"{platform.machine()}, {cores()} cores",
        "steps": args.steps,
        "batch": args.batch,
        "seeds": args.seeds,
        "rows": rows,
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
