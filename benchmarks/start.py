"""What a start costs: CPU seconds of whole commands, those of another checkout beside them.

    python benchmarks/start.py --run runs/digits --against ../before

Commands of both checkouts run in turn with warm caches, so that a change of the machine's pace meets both; medians
count. The run is sampled from, two steps of four images, and `--help` is printed. `--against` names a checkout whose
package is used with this one's Python; the run is copied, since what a start keeps there differs.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]


def seconds(checkout: Path, words: list[str]) -> float:
    """CPU seconds of one command and what it started."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "flexidit_jax.main", *words]
    subprocess.run(command, check=True, cwd=checkout, env={**os.environ, "PYTHONPATH": "."}, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a trained run of configs/digits.py")
    parser.add_argument("--against", type=Path, required=True)
    parser.add_argument("--variant", default="", help="of the config, such as smoke")
    parser.add_argument("--repeats", type=int, default=7)
    words = parser.parse_args()
    config = f"--config=configs/digits.py{words.variant and ':' + words.variant}"
    sample = [config, "--mode=sample", "--config.sample.labels=(0,1,2,3)", "--config.sample.steps=2"]
    checkouts = {"this": ROOT, "other": words.against.resolve()}
    with tempfile.TemporaryDirectory() as folder:
        for name in checkouts:
            shutil.copytree(words.run, Path(folder) / name)
        for what, command in (("--mode=sample", sample), ("--help", ["--help"])):
            spent: dict[str, list[float]] = {name: [] for name in checkouts}
            for i in range(words.repeats + 1):
                for name, checkout in checkouts.items():
                    where = [f"--workdir={Path(folder) / name}"] if command is sample else []
                    cost = seconds(checkout, [*command, *where])
                    if i:  # the first warms the caches
                        spent[name].append(cost)
            ratios = np.divide(spent["this"], spent["other"])
            medians = {name: round(float(np.median(costs)), 2) for name, costs in spent.items()}
            spread = {
                "ratio": round(float(np.median(ratios)), 2),
                "range": [round(float(r), 2) for r in (ratios.min(), ratios.max())],
            }
            print(json.dumps({"command": what, "CPU seconds": medians, **spread}), flush=True)


if __name__ == "__main__":
    main()
