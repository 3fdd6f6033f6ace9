"""DiT-XL/2 on pods: what its training and sampling programs take of a chip, compiled without a pod.

    pip install "libtpu==0.0.42.*"        # or: pip install -e .[tpu]
    python benchmarks/scaling.py [--out runs/scaling] [--only v5e:4x4] [--document docs/scaling.md]

Runs `--mode=compile` once a row below, each in a process of its own (half a minute to a few minutes each on two
cores), then writes the tables into the document, between its markers. A row that `--out` has is not compiled again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from flexidit_jax.common.chips import TPUS

ROOT = Path(__file__).parents[1]
GIB = 2**30
BEGIN, END = "<!-- written by benchmarks/scaling.py -->", "<!-- end -->"


class Row(NamedTuple):
    """One run of the compile job; `slice` is a TPU's, or `cpu:8` for as many devices of this CPU."""

    slice: str
    size: int
    batch: int
    fsdp: int
    remat: str
    accumulate: int = 1
    sample: bool = False

    @property
    def name(self) -> str:
        shape = self.slice.replace(":", "_")
        return f"{shape}_{self.size}_b{self.batch}_f{self.fsdp}_{self.remat}_a{self.accumulate}"


ROWS = (
    Row("v5e:4x4", 256, 256, 1, "dots"),
    Row("v5e:4x4", 256, 256, 4, "dots", sample=True),
    Row("v5e:4x4", 256, 1024, 4, "dots"),
    Row("v5e:4x4", 256, 1024, 4, "dots", accumulate=4),
    Row("v5e:16x16", 256, 1024, 16, "dots"),
    Row("v5e:16x16", 256, 4096, 16, "dots"),
    Row("v4:4x4x8", 256, 1024, 8, "dots", sample=True),
    Row("v5p:4x4x8", 256, 4096, 8, "dots", sample=True),
    Row("v5e:4x4", 512, 256, 1, "full"),
    Row("v5e:4x4", 512, 256, 4, "full"),
    Row("v5e:16x16", 512, 1024, 16, "full"),
    Row("v4:4x4x8", 512, 1024, 8, "full"),
    Row("v5p:4x4x8", 512, 1024, 8, "full"),
    Row("cpu:8", 256, 256, 8, "dots"),
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
        kind, _, count = row.slice.partition(":")
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        where = [f"--topology={row.slice}"]
        if kind == "cpu":
            environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={count}"
            where = []
        command = [sys.executable, "-m", "flexidit_jax.main", f"--config=configs/imagenet{row.size}.py"]
        command += ["--mode=compile", f"--workdir={workdir}", *where, f"--config.train.batch={row.batch}"]
        command += [f"--config.train.mesh.fsdp={row.fsdp}", f"--config.model.remat={row.remat}"]
        command += [f"--config.train.accumulate={row.accumulate}", "--config.sample.budget=0.64"]
        command += [f"--config.compile.programs={('train', 'sample') if row.sample else ('train',)}"]
        subprocess.run(command, check=True, cwd=ROOT, env=environment)
    return json.loads(file.read_text())


def tables(records: dict[Row, dict[str, Any]]) -> str:
    """Training, sampling, and the row of a GPU cluster."""
    tpu = {row: record for row, record in records.items() if row.slice.partition(":")[0] in TPUS}
    lines = [
        "### Training",
        "",
        "| slice | pixels | batch | mesh | remat | patch | arguments | temporaries | total, of GiB | fits"
        " | collectives GiB | model + recomputed TFLOP | **ESTIMATE** ms: compute / memory / links | limit |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row, record in tpu.items():
        for program in record["programs"]:
            if program["name"].startswith("train"):
                lines.append(training_line(row, record, program))
    lines += [
        "",
        "### Sampling: one chip, a step of 8 images, guided",
        "",
        "| chip | pixels | modes | arguments | temporaries | model TFLOP | **ESTIMATE** ms: compute / memory | limit |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row, record in tpu.items():
        for program in record["programs"]:
            if program["name"].startswith("sample"):
                ms = estimate(program, ("compute", "memory"))
                cells = (row.slice.partition(":")[0], row.size, program["name"].partition(", ")[2])
                cells += (gib(program["arguments"]), gib(program["temporaries"]), f"{program['flops'] / 1e12:.3g}", *ms)
                lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [
        "",
        "### Eight devices of a CPU, as a stand-in for eight GPUs",
        "",
        "| pixels | batch | mesh | patch | arguments a device | collectives: count, GiB | sent a device GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, record in records.items():
        for program in record["programs"] if row.slice.startswith("cpu") else ():
            said = "; ".join(f"{k} {t['count']:.0f}, {gib(t['bytes'])}" for k, t in program["traffic"].items())
            sent = gib(sum(t["sent"] for t in program["traffic"].values()))
            cells = (
                row.size,
                row.batch,
                mesh(record),
                program["name"].split()[-1],
                gib(program["arguments"]),
                said,
                sent,
            )
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def training_line(row: Row, record: dict[str, Any], program: dict[str, Any]) -> str:
    remat = row.remat + (f", accumulate {row.accumulate}" if row.accumulate > 1 else "")
    hbm = TPUS[row.slice.partition(":")[0]].hbm
    said = "-"
    if program["traffic"] is not None:
        said = "; ".join(f"{kind} {gib(t['bytes'])}" for kind, t in program["traffic"].items())
    cells = [row.slice, row.size, row.batch, mesh(record), remat, program["name"].split()[-1]]
    cells += [gib(program["arguments"]), gib(program["temporaries"]), f"{gib(program['total'])} of {hbm}"]
    cells += ["yes" if program["fits"] else "**no**", said]
    cells += [f"{program['flops'] / 1e12:.3g} + {program['recomputed'] / 1e12:.3g}"]
    cells += estimate(program, ("compute", "memory", "links"))
    return f"| {' | '.join(map(str, cells))} |"


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
