"""Samples from a folder that `--mode=export` wrote, with jax and numpy alone. See launch/README.md.

Every export holds the copy of this script that reads it: `python exported/serve_exported.py --labels=1,2`.
"""

import argparse
import hashlib
import json
import sys
import zipfile
from functools import cache
from pathlib import Path

import jax
import jax.export
import numpy as np

FORMAT = 1


def per_step(text, steps):
    runs = [run.partition(":")[::2] for run in text.split(",")]
    if not all(count.isdecimal() for _, count in runs):
        raise ValueError(f"{text!r} is not of the form patch:steps,patch:steps (such as 4:30,2:20)")
    if (total := sum(int(count) for _, count in runs)) != steps:
        raise ValueError(f"{text!r} adds up to {total} steps, but the table has {steps}")
    return [patch for patch, count in runs for _ in range(int(count))]


def sample(folder, labels, table=None, schedule=None, guide=None, guidance=1.0, seed=0, first=0):
    """Latents of `labels`, float32 [B, F, H, W, C]."""
    if not (folder / "manifest.json").is_file():
        raise ValueError(f"{folder} holds no exported model; --mode=export writes one")
    manifest = json.loads((folder / "manifest.json").read_text())
    if not isinstance(manifest, dict) or not {"format", "programs"} <= manifest.keys():
        raise ValueError(f"{folder}/manifest.json is not that of an export")
    if (found := manifest["format"]) != FORMAT:
        raise ValueError(
            f"{folder} is an export of format {found!r}, and this script reads {FORMAT}; use the serve_exported.py that"
            " came with it, or export again"
        )
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must lie in 0..2^32-1, got {seed}")
    if not 0 <= first <= 2**32 - len(labels):
        raise ValueError(f"first must lie in 0..2^32-{len(labels)} for {len(labels)} labels, got {first}")
    weights = np.load(folder / "weights.npz")
    rows = np.load(folder / "tables.npz")[table or manifest["tables"][0]]  # [rows, columns]
    step, noisy = (rows[:, manifest["columns"].index(name)] for name in ("step", "noisy"))
    steps = int(step.max()) + 1
    if not all(0 <= label <= manifest["classes"] for label in labels):
        raise ValueError(f"labels must lie in 0..{manifest['classes']}, got {labels}")

    @cache
    def weight(name):
        return jax.device_put(weights[name].view(np.dtype(manifest["weights"][name]["dtype"])))

    @cache
    def program(name):
        if name not in manifest["programs"]:
            raise ValueError(f"no program {name}; there are {', '.join(manifest['programs'])}")
        entry = manifest["programs"][name]
        content = (folder / entry["file"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise ValueError(f"{entry['file']} is not the file that was exported")
        call = jax.jit(jax.export.deserialize(bytearray(content)).call)
        return (lambda *args: call([weight(w) for w in entry["weights"]], *args)) if "weights" in entry else call

    def draw(number):
        indices = (first + np.arange(len(labels))).astype(np.uint32)
        return program("noise")(np.uint32(seed), indices, np.uint32(number))

    schedule = per_step(schedule or f"{manifest['modes'][0]}:{steps}", steps)
    carry = (draw(0), *[np.zeros((len(labels), *manifest["latent"]), np.float32)] * 3)
    for k, (patch, by) in enumerate(zip(schedule, per_step(guide, steps) if guide else schedule)):
        scale = guidance if by == patch else 1 + (guidance - 1) / manifest["scale_ratio"]
        by, scale = ("none", 1.0) if scale == 1 or by == "none" else (by, scale)
        noise = draw(k + 1) if noisy[step == k].any() else np.zeros_like(carry[0])
        for row in rows[step == k]:
            carry = program(f"{patch}+{by}")(row, np.float32(scale), *carry, np.array(labels, np.int32), noise)
    return np.asarray(carry[0])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path(__file__).parent, help="default: that of this file"
    )
    parser.add_argument("--labels", required=True, type=lambda text: [int(label) for label in text.split(",")])
    parser.add_argument("--out", default="latents.npy", help="of float32 [B, F, H, W, C]")
    options = {
        "table": (str, "steps and solver, by its name in manifest.json (default: the first)"),
        "schedule": (str, "such as 4:30,2:20, noise first (default: every step powerful)"),
        "guide": (str, "the schedule of the guiding prediction, such as none:10,4:40 (default: the schedule)"),
        "guidance": (float, "its scale (default: 1, no guidance)"),
        "seed": (int, "of the noise (default: 0)"),
        "first": (int, "number of the first sample, which its noise depends on (default: 0)"),
    }
    for name, (kind, text) in options.items():
        parser.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS, help=text)
    words = vars(parser.parse_args(argv))
    out = words.pop("out")
    try:
        np.save(out, sample(**words))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
