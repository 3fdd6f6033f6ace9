"""Up to which batch tables of modulations pay: a step that reads them beside one that makes its own.

    python benchmarks/hoisting.py --size S --batches 1 4 16 64

Chains of guided steps of both modes, with tables and without, are run in turn, so that a change of the machine's pace
meets all; medians count. The making of tables is in the time. `sampling.tables.MOST` is the limit; here a table grows
with the batch. Random weights, 32x32x4 latents.
"""

from __future__ import annotations

import argparse
import json
from functools import partial

from speed import build, interleaved

from flexidit_jax.common.allocator import keep_freed_memory
from flexidit_jax.sampling import tables


def chain(flex: object, batch: int, patch: int, steps: int, ahead: bool) -> None:
    """One call of `sample`, with tables or without."""
    tables.MOST, tables.ROWS = (batch if ahead else 0), 4 * max(batch, 16)
    words = {"schedule": f"{patch}:{steps}", "guide": f"{patch}:{steps}", "guidance": 1.5, "batch": batch}
    flex.sample(range(batch), steps=steps, decode=False, progress=False, **words)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="S")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    words = parser.parse_args()
    keep_freed_memory()
    flex = build(words.size, words.dtype)
    for batch in words.batches:
        for patch in (2, 4):
            runs = {
                name: partial(chain, flex, batch, patch, words.steps, ahead)
                for name, ahead in (("with tables", True), ("without", False))
            }
            ms = {name: 1e3 * seconds / words.steps for name, seconds in interleaved(runs, words.repeats).items()}
            ratio = round(ms["with tables"] / ms["without"], 3)
            ms = {name: round(value, 2) for name, value in ms.items()}
            print(json.dumps({"batch": batch, "patch": patch, "ms a step": ms, "ratio": ratio}), flush=True)


if __name__ == "__main__":
    main()
