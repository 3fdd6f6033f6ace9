"""`--mode=compile`: the programs of a config, compiled for TPUs or GPUs that are not there, and what they take.

    python -m flexidit_jax.main --config=configs/imagenet256.py --mode=compile --topology=v5e:16x16
    python -m flexidit_jax.main --config=configs/imagenet256.py --mode=compile --topology=gpu:h100

Neither the data set nor weights are read. Without `--topology` it compiles for the devices at hand.
"""

from __future__ import annotations

import json
from pathlib import Path

from ml_collections import ConfigDict

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import written_aside
from flexidit_jax.common.program_cache import compiling_anew
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.sections import HOW
from flexidit_jax.models.conditioning.condition import size
from flexidit_jax.programs.cost import Compiled, compile_program, table
from flexidit_jax.programs.largest_batch import with_largest_batch
from flexidit_jax.programs.lower import sampling_programs, training_programs
from flexidit_jax.programs.slices import devices_here
from flexidit_jax.programs.topology import described
from flexidit_jax.runs.workdir import out_folder
from flexidit_jax.training.sharding import check_axes, check_batch, mesh_over

FLAGS = {"topology": "compile.topology", "out": "compile.out"}
#: of what may change between two starts, the sections and keys that it reads
READS = ("compile", "train", *HOW, "sample.labels", "sample.batch")


def run(config: ConfigDict, workdir: Path) -> int:
    """Compiles what `config.compile` says; `<slice>.json` and `.md` go into `compile.out`, or `workdir/compile`."""
    experiment = build_experiment(config, workdir)
    section, train = experiment.compile, experiment.train
    where = devices_here() if section.topology is None else described(section.topology)
    folder = out_folder(section.out, workdir / "compile")

    lowerings, axes = [], None
    if "train" in section.programs:
        mesh = mesh_over(where.devices, **train.mesh)
        check_axes(experiment.model, experiment.train.stages, mesh)
        check_batch(train.batch, mesh, train.accumulate)
        lowerings += training_programs(experiment.model, experiment.process, train, experiment.seed, mesh)
        axes = dict(mesh.shape)
        shape = " x ".join(f"{axis}={size}" for axis, size in axes.items())
        print(f"{where.name}: {len(where.devices)} device(s), training on {shape}")
    if "sample" in section.programs:
        asked, model = experiment.sample, experiment.model
        batch = asked.batch or (1 if asked.labels is None else size(model.conditioner.parse(asked.labels)))
        words = asked.spec, batch, where.devices[0], experiment.codec
        lowerings += sampling_programs(model, experiment.process, train, *words)
        print("sampling: one device with a batch of its own; several sample side by side")

    larger = section.largest_batch
    if larger is None:
        larger = section.topology is not None and where.devices[0].platform == "gpu"
    programs: list[Compiled] = []
    with compiling_anew():
        for lowering in lowerings:
            print(f"compiling: {lowering.name}", flush=True)
            one = compile_program(lowering, where)
            programs.append(with_largest_batch(one, lowering, where) if larger else one)
    text = table(programs, where)
    known = "" if where.chip else f"; no estimate, since the speed of {where.name.partition(':')[0]} is not known here"
    print(f"\nfigures of one device{known}\n\n{text}\n")

    name = where.name.replace(":", "_")
    record = {"slice": where.name, "devices": len(where.devices), "mesh": axes, "config": experiment.raw}
    record["programs"] = [one.as_json(where) for one in programs]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for suffix, content in {"json": json.dumps(record, indent=1), "md": text}.items():
            with written_aside(folder / f"{name}.{suffix}") as file:
                file.write_text(content + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}); name another --out") from None
    print(f"written: {folder}/{name}.json, {name}.md")
    return 0
