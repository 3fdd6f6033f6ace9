"""DiT-XL/2 on pods and GPUs: what its training and sampling programs take of a chip, compiled without one.

    pip install "libtpu==0.0.42.*"        # or: pip install -e .[tpu]; for GPUs .[gpu], 5.5 GB
    python benchmarks/scaling.py [--out runs/scaling] [--only v5e:4x4] [--document docs/scaling.md]

Runs `--mode=compile` once a row below, each in a process of its own (half a minute to a few minutes each on two
cores), then writes the tables into the document, between its markers. A row that `--out` has is not compiled again.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from flexidit_jax.common.chips import GPUS, TPUS

ROOT = Path(__file__).parents[1]
GIB = 2**30
BEGIN, END = "<!-- written by benchmarks/scaling.py -->", "<!-- end -->"


class Row(NamedTuple):
    """One run of the compile job; `sample` images are sampled at a time, none by default."""

    slice: str
    size: int
    batch: int
    fsdp: int
    remat: str
    accumulate: int = 1
    sample: int = 0

    @property
    def name(self) -> str:
        shape = self.slice.replace(":", "_")
        return f"{shape}_{self.size}_b{self.batch}_f{self.fsdp}_{self.remat}_a{self.accumulate}"


ROWS = (
    Row("v5e:4x4", 256, 256, 1, "dots"),
    Row("v5e:4x4", 256, 256, 4, "dots", sample=8),
    Row("v5e:4x4", 256, 1024, 4, "dots"),
    Row("v5e:4x4", 256, 1024, 4, "dots", accumulate=4),
    Row("v5e:16x16", 256, 1024, 16, "dots"),
    Row("v5e:16x16", 256, 4096, 16, "dots"),
    Row("v4:4x4x8", 256, 1024, 8, "dots", sample=8),
    Row("v5p:4x4x8", 256, 4096, 8, "dots", sample=8),
    Row("v5e:4x4", 512, 256, 1, "full"),
    Row("v5e:4x4", 512, 256, 4, "full"),
    Row("v5e:16x16", 512, 1024, 16, "full"),
    Row("v4:4x4x8", 512, 1024, 8, "full"),
    Row("v5p:4x4x8", 512, 1024, 8, "full"),
    Row("gpu:h100", 256, 64, 1, "dots", sample=64),
    Row("gpu:h100", 256, 256, 1, "dots", sample=8),
    Row("gpu:a100", 256, 64, 1, "dots", sample=64),
    Row("gpu:h100x8", 256, 256, 8, "dots"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "scaling")
    parser.add_argument("--only", default="", help="rows of slices that begin so; shown, not written into the document")
    parser.add_argument("--document", type=Path, default=ROOT / "docs" / "scaling.md")
    words = parser.parse_args()
    records = {}
    for row in ROWS:
        if row.slice.startswith(words.only):
            print(row.name, flush=True)
            records[row] = compiled(row, words.out / row.name)
    if words.only:
        print(tables(records))
        return
    text = words.document.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    words.document.write_text(f"{before}{BEGIN}\n\n{tables(records)}\n\n{END}{after}")


def compiled(row: Row, workdir: Path) -> dict[str, Any]:
    """What the compile job wrote for a row."""
    file = workdir / "compile" / f"{row.slice.replace(':', '_')}.json"
    if not file.is_file():
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", "flexidit_jax.main", f"--config=configs/imagenet{row.size}.py"]
        command += ["--mode=compile", f"--topology={row.slice}", f"--workdir={workdir}"]
        command += [f"--config.train.batch={row.batch}", f"--config.sample.batch={row.sample or None}"]
        command += [f"--config.train.mesh.fsdp={row.fsdp}", f"--config.model.remat={row.remat}"]
        command += [f"--config.train.accumulate={row.accumulate}", "--config.sample.budget=0.64"]
        command += [f"--config.compile.programs={('train', 'sample') if row.sample else ('train',)}"]
        subprocess.run(command, check=True, cwd=ROOT, env=environment)
    return json.loads(file.read_text())


def tables(records: dict[Row, dict[str, Any]]) -> str:
    """Training, sampling, and what a GPU launches."""
    lines = [
        "### Training",
        "",
        "| slice | pixels | batch | mesh | remat | patch | arguments | temporaries | total, of GiB | fits"
        " | collectives GiB | model + recomputed TFLOP | **ESTIMATE** ms: compute / memory / links | limit |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row, record in records.items():
        for program in record["programs"]:
            if program["name"].startswith("train"):
                lines.append(training_line(row, record, program))
    lines += [
        "",
        "### Sampling: one chip, a guided step",
        "",
        "| chip | pixels | images | modes | arguments | temporaries | model TFLOP"
        " | **ESTIMATE** ms: compute / memory | limit |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row, record in records.items():
        for program in record["programs"]:
            if program["name"].startswith("sample"):
                ms = estimate(program, ("compute", "memory"))
                cells = (kind(row), row.size, program["batch"], program["name"].partition(", ")[2])
                cells += (gib(program["arguments"]), gib(program["temporaries"]), f"{program['flops'] / 1e12:.3g}", *ms)
                lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [
        "",
        "### GPUs: what a step launches",
        "",
        "| cards | batch | program | launches | neither product nor attention | these move GB | copies of weights GB"
        " | largest batch that fits |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row, record in records.items():
        for program in record["programs"] if row.slice.startswith("gpu") else ():
            cells = (row.slice, program["batch"], program["name"])
            cells += (f"{program['launches']:.0f}", f"{program['launches_other']:.0f}")
            cells += (f"{program['bytes_other'] / 1e9:.3g}", f"{program['weight_copies'] / 1e9:.3g}")
            lines.append(f"| {' | '.join(map(str, (*cells, program['largest_batch'])))} |")
    return "\n".join(lines)


def training_line(row: Row, record: dict[str, Any], program: dict[str, Any]) -> str:
    remat = row.remat + (f", accumulate {row.accumulate}" if row.accumulate > 1 else "")
    hbm = (TPUS | GPUS)[kind(row)].hbm
    said = "-"
    if program["traffic"] is not None:
        said = "; ".join(f"{name} {gib(t['bytes'])}" for name, t in program["traffic"].items()) or "none"
    cells = [row.slice, row.size, row.batch, mesh(record), remat, program["name"].split()[-1]]
    cells += [gib(program["arguments"]), gib(program["temporaries"]), f"{gib(program['total'])} of {hbm}"]
    cells += ["yes" if program["fits"] else "**no**", said]
    cells += [f"{program['flops'] / 1e12:.3g} + {program['recomputed'] / 1e12:.3g}"]
    cells += estimate(program, ("compute", "memory", "links"))
    return f"| {' | '.join(map(str, cells))} |"


def kind(row: Row) -> str:
    """`v5e` of `v5e:4x4`, `h100` of `gpu:h100x8`."""
    return re.split("[:x]", row.slice.removeprefix("gpu:"))[0]


def estimate(program: dict[str, Any], parts: tuple[str, ...]) -> tuple[str, str]:
    bounds = program["estimate"]
    if bounds is None:
        return "-", "-"
    return " / ".join(f"{1e3 * bounds[part]:.3g}" for part in parts), max(parts, key=bounds.get)


def mesh(record: dict[str, Any]) -> str:
    return " x ".join(str(record["mesh"][axis]) for axis in ("data", "fsdp", "tensor"))


def gib(number: float | None) -> str:
    return "-" if number is None else f"{number / GIB:.3g}"


if __name__ == "__main__":
    main()
