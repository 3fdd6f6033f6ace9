"""Samples from a folder that `--mode=export` wrote, with jax and numpy alone. See launch/README.md.

Every export holds the copy of this script that reads it: `python exported/serve_exported.py --cond=1,2,none`.
"""

import argparse
import hashlib
import json
import math
import re
import sys
import zipfile
from functools import cache, lru_cache
from pathlib import Path

import jax
import jax.export
import numpy as np

FORMAT = 4
#: of modulations made at once, about
ROWS = 64
#: of FlexiDiT.sample
GUIDANCE = 1.5


class NotFinite(ValueError):
    """Samples that became NaN or infinite: `failed` are their indices, `latents` those of all, zeros for them."""

    def __init__(self, latents, failed, after, steps, first):
        told = [f"number {first + i} after {k} of {steps} steps" for i, k in zip(failed[:4], after)]
        told += [f"{len(failed) - 4} more"] if len(failed) > 4 else []
        others = "; the others are sound" if len(failed) < len(latents) else ""
        super().__init__(
            f"{len(failed)} of {len(latents)} samples became NaN or infinite: {', '.join(told)}{others};"
            " less guidance may help, else look for weights that are damaged or too large"
        )
        self.latents, self.failed = np.array(latents), failed
        self.latents[failed] = 0


def per_step(text, steps):
    runs = [run.partition(":")[::2] for run in text.split(",")]
    if not all(count.isdecimal() for _, count in runs):
        raise ValueError(f"{text!r} is not of the form patch:steps,patch:steps (such as 4:30,2:20)")
    if (total := sum(int(count) for _, count in runs)) != steps:
        raise ValueError(f"{text!r} adds up to {total} steps, but the table has {steps}")
    return [patch for patch, count in runs for _ in range(int(count))]


def read_manifest(folder):
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
    return manifest


def condition(fields, given, what):
    """Arrays [B, ...] by name, from a list of numbers (None meaning none) or from such arrays."""
    if not isinstance(given, dict):
        numbers = [name for name, field in fields.items() if field["limits"]]
        if len(numbers) != 1:
            raise ValueError(f"{what} of this model is no list of numbers; give an .npz of {', '.join(fields)}")
        low = fields[numbers[0]]["limits"][0]
        given = {numbers[0]: [low if n is None else n for n in given], "null": [n is None for n in given]}
    if unknown := sorted(set(given) - set(fields)):
        raise ValueError(f"{what} of this model has no {unknown[0]!r}; it has {', '.join(fields)}")
    arrays = {name: np.asarray(given[name]) for name in fields if name in given}
    count = next((len(array) for array in arrays.values() if array.ndim), 0)
    arrays.setdefault("null", np.zeros(count, bool))
    for name, field in fields.items():
        array, shape = arrays.get(name), (count, *field["shape"])
        if array is None or array.shape != shape or not np.can_cast(array.dtype, field["dtype"], "same_kind"):
            found = "nothing" if array is None else f"{array.dtype} {list(array.shape)}"
            raise ValueError(f"{name} of {what} must be {field['dtype']} {list(shape)}, got {found}")
        if field["limits"] and count and not field["limits"][0] <= array.min() <= array.max() <= field["limits"][1]:
            raise ValueError("{} of {} must lie in {}..{}, got {}".format(name, what, *field["limits"], array.tolist()))
    if not count:
        raise ValueError(f"{what} is empty")
    return {name: arrays[name].astype(field["dtype"]) for name, field in fields.items()}


def guides(cond, negative, own=()):
    """The guide's condition where a mode guides itself, and where a weaker one guides it; `own` stays the sample's."""
    if negative is None:
        return {**cond, "null": np.ones_like(cond["null"])}, cond
    batch = len(cond["null"])
    if len(negative["null"]) not in (1, batch):
        raise ValueError(f"negative must be one for all samples or one for each of {batch}")
    negative = {name: np.broadcast_to(a, (batch, *a.shape[1:])) for name, a in negative.items()}
    negative |= {name: cond[name] for name in own}
    null = negative["null"]
    mixed = {name: np.where(null.reshape(-1, *[1] * (a.ndim - 1)), cond[name], a) for name, a in negative.items()}
    return negative, mixed


def sample(folder, cond, negative=None, table=None, schedule=None, guide=None, guidance=1.0, seed=0, first=0):
    """Latents of a condition, float32 [B, F, H, W, C]; `cond` and `negative` as `condition` reads them."""
    manifest = read_manifest(folder)
    cond = condition(manifest["cond"], cond, "cond")
    negative = None if negative is None else condition(manifest["cond"], negative, "negative")
    itself, weaker = guides(cond, negative, manifest.get("own", ()))
    batch = len(cond["null"])
    if not math.isfinite(guidance):
        raise ValueError(f"guidance must be finite, got {guidance}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must lie in 0..2^32-1, got {seed}")
    if not 0 <= first <= 2**32 - batch:
        raise ValueError(f"first must lie in 0..2^32-{batch} for {batch} samples, got {first}")
    weights = np.load(folder / "weights.npz")
    rows = np.load(folder / "tables.npz")[table or manifest["tables"][0]]  # [rows, columns]
    step, noisy = (rows[:, manifest["columns"].index(name)] for name in ("step", "noisy"))
    steps = int(step.max()) + 1

    @cache
    def weight(name):
        return jax.device_put(weights[name].view(np.dtype(manifest["weights"][name]["dtype"])))

    @cache
    def program(name, kind="programs"):
        if name not in manifest[kind]:
            raise ValueError(f"no program {name}; there are {', '.join(manifest[kind])}")
        entry = manifest[kind][name]
        content = (folder / entry["file"]).read_bytes()
        if hashlib.sha256(content).hexdigest() != entry["sha256"]:
            raise ValueError(f"{entry['file']} is not the file that was exported")
        call = jax.jit(jax.export.deserialize(bytearray(content)).call)
        return (lambda *args: call([weight(w) for w in entry["weights"]], *args)) if "weights" in entry else call

    def every(number, dtype):
        return np.full(batch, number, dtype)

    def draw(number):
        indices = (first + np.arange(batch)).astype(np.uint32)
        return program("noise")(every(seed, np.uint32), indices, every(number, np.uint32))

    def listed(cond):
        return [cond[name] for name in sorted(cond)]

    schedule = per_step(schedule or f"{manifest['modes'][0]}:{steps}", steps)
    guide = per_step(guide, steps) if guide else None
    for name, asked in {"guide": guide and set(guide) != {"none"}, "negative": negative is not None}.items():
        if asked and guidance == 1:
            raise ValueError(f"{name} is read by no step: guidance=1 runs no guide; change that, or leave {name} out")
    conds = [np.concatenate(parts) for parts in zip(*map(listed, (cond, itself, weaker)))]
    times, ahead = rows[:, manifest["columns"].index("t")].astype(np.float32), max(1, ROWS // (3 * batch))

    made = manifest.get("kept", {})  # there where blocks read conditions by themselves
    shared = {tuple(entry["weights"]): patch for patch, entry in made.items()}

    @cache
    def kept(patch):
        return program(patch, "kept")(conds)

    def given(patch):  # what steps read of the three conditions, [3 batch, ...]; modes of the same weights share it
        return kept(shared[tuple(made[patch]["weights"])]) if made else conds

    @lru_cache(4)
    def modulations(patch, window):  # [ahead, 3, batch] rows, for so many evaluations and the three conditions
        t = times[np.minimum(np.arange(window * ahead, (window + 1) * ahead), len(times) - 1)]
        made_of = given(patch)[: manifest["modulated"]] if made else conds
        told = [np.concatenate([array] * ahead) for array in made_of]
        return program(patch, "modulations")(np.repeat(t, 3 * batch), told)

    nothing = np.zeros((batch, *manifest["latent"]), np.float32)
    carry = (draw(0), nothing, nothing, nothing, np.full((batch, 1, 1, 1, 1), -1, np.float32))
    for k, (patch, by) in enumerate(zip(schedule, guide or schedule)):
        scale = guidance if by == patch else 1 + (guidance - 1) / manifest["scale_ratio"]
        by, scale = ("none", 1.0) if scale == 1 or by == "none" else (by, scale)
        noise = draw(k + 1) if noisy[step == k].any() else np.zeros_like(carry[0])
        asked = {"none": (0,), patch: (0, 1)}.get(by, (0, 2))
        readers = zip((patch, patch if by == "none" else by), (asked[0], asked[-1]))
        read = [[array[which * batch :][:batch] for array in given(mode)] for mode, which in readers]
        run = program(f"{patch}+{by}")
        for at in np.flatnonzero(step == k):
            tables = [
                a for mode in dict.fromkeys([patch, by]) if mode != "none" for a in modulations(mode, at // ahead)
            ]
            pick = [((at % ahead) * 3 + which) * batch + np.arange(batch, dtype=np.int32) for which in asked]
            told = np.tile(rows[at], (batch, 1)), every(scale, np.float32), np.array(pick, np.int32).T
            carry = run(tables, *told, *carry, *read, noise)
    latents, lost = np.asarray(carry[0]), np.ravel(carry[4]).astype(int)
    if (failed := np.flatnonzero(lost >= 0)).size:
        raise NotFinite(latents, failed.tolist(), (lost[failed] + 1).tolist(), steps, first)
    return latents


def typed(text):
    """`1,2,none` as a list, `file.npz` as its arrays."""
    if text.endswith(".npz"):
        with np.load(text) as arrays:
            return dict(arrays)
    if not re.fullmatch(r"(\d+|none)(,(\d+|none))*", text):
        raise ValueError(f"{text!r} is neither numbers such as 1,2,none nor an .npz")
    return [None if number == "none" else int(number) for number in text.split(",")]


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "folder", type=Path, nargs="?", default=Path(__file__).parent, help="default: that of this file"
    )
    parser.add_argument("--cond", required=True, help="numbers such as 1,2,none; or an .npz, see manifest.json")
    parser.add_argument("--out", default="latents.npy", help="of float32 [B, F, H, W, C]")
    options = {
        "negative": (str, "what guidance leads away from instead of none, one for all or one a sample (see --cond)"),
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
    file = out if out.endswith(".npy") else f"{out}.npy"  # as numpy names it
    lost = None
    try:
        words |= {name: typed(words[name]) for name in ("cond", "negative") if name in words}
        try:
            latents = sample(**words)
        except NotFinite as error:
            latents, lost = error.latents, error
        np.save(file, latents)
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    if (scale := words.get("guidance", 1.0)) != GUIDANCE:
        print(f"guidance: {scale:g} (in Python {GUIDANCE} unless said)")
    print(f"written: {file}, latents of {len(latents)} sample(s), {latents.dtype} {list(latents.shape)}")
    if lost is not None:
        print(f"error: {lost}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
