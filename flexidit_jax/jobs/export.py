"""`--mode=export`: the step programs as `jax.export` artifacts, weights beside them, for other machines to serve."""

from __future__ import annotations

import shlex
from pathlib import Path

from ml_collections import ConfigDict

from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.start import trained_model
from flexidit_jax.programs.bundle import write_exported
from flexidit_jax.runs.workdir import out_folder

FLAGS = {"out": "export.out"}
#: of what may change between two starts, the sections and keys that it reads
READS = ("init_from", "export", "sample.solver", "sample.steps")


def run(config: ConfigDict, workdir: Path) -> int:
    """Exports the newest checkpoint of `workdir` (or `init_from`) as `config.export` says."""
    experiment = build_experiment(config, workdir)
    section = experiment.export
    folder = out_folder(section.out, workdir / "exported")
    flex = trained_model(experiment, workdir)
    tables = section.solver_tables(flex.process, experiment.sample.spec)
    pairs = write_exported(flex, section, tables, folder)
    cond = "0,1,2" if len(flex.model.conditioner.limits) == 1 else "cond.npz"
    command = shlex.join(["python", str(folder / "serve_exported.py"), f"--cond={cond}"])
    megabytes = sum(file.stat().st_size for file in folder.iterdir()) / 1e6
    print(f"programs: {', '.join(pairs)}; any batch, for {', '.join(section.platforms)}")
    print(f"tables: {', '.join(tables)}")
    print(f"written: {folder} ({megabytes:.1f} MB); sample from it: {command}")
    return 0
