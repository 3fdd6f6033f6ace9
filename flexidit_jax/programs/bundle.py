"""The folder that `--mode=export` writes: programs, weights, solver tables and a manifest.

manifest.json              what is there and how it is called
modulations_<patch>.bin    what a mode's steps read of (time, condition), for many steps at once
kept_<patch>.bin           what a mode's steps read of conditions, where blocks read them by themselves
step_<cond>_<guide>.bin    one evaluation and one row of a solver's table (`programs.export`)
noise.bin                  the noise of every sample and step
weights.npz                every distinct array of every mode, once
tables.npz                 [rows, columns] a solver and its number of steps
serve_exported.py          samples from the folder, with jax and numpy alone
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import folder_written_aside
from flexidit_jax.common.types import Array, short_patch_name
from flexidit_jax.diffusion.process import NoiseProcess
from flexidit_jax.diffusion.solvers import make_table
from flexidit_jax.diffusion.steps import Carry, Steps
from flexidit_jax.models.conditioning.condition import shapes
from flexidit_jax.programs import serve_exported
from flexidit_jax.programs.export import (
    PLATFORMS,
    export_kept,
    export_modulations,
    export_noise,
    export_step,
    kept_weights,
    modulated,
    modulation_weights,
    parse_pairs,
    runnable_pairs,
    step_weights,
)
from flexidit_jax.sampling.engine import Engine
from flexidit_jax.sampling.guidance import SCALE_RATIO
from flexidit_jax.sampling.schedule import pair_text
from flexidit_jax.sampling.spec import SampleSpec
from flexidit_jax.sampling.trajectory import Program

MANIFEST = "manifest.json"
SCRIPT = Path(serve_exported.__file__)


@dataclass(frozen=True)
class Export:
    """The `export` section.

    Attributes:
      out: the folder; `exported` in the workdir by default; also `--out`.
      platforms: that the programs can run on: "cpu", "cuda", "rocm", "tpu".
      pairs: such as `("2", "4", "2+4")`: patch 2 alone, 4 alone, 2 guided by 4; by default all that the model
        can run.
      tables: solvers and steps, such as `({"solver": "ddpm", "steps": 250},)`; by default those of the `sample`
        section.
      guidance_channels: as in `FlexiDiT.sample`; part of the programs.
    """

    out: str | None = None
    platforms: Sequence[str] = ("cpu", "cuda", "tpu")
    pairs: Sequence[str | int] | None = None
    tables: Sequence[Mapping[str, Any]] | None = None
    guidance_channels: int | None = None

    def __post_init__(self) -> None:
        for key in ("platforms", "pairs", "tables"):
            value = getattr(self, key)
            if value is not None and (isinstance(value, str) or not isinstance(value, Sequence) or not value):
                raise UserError(f"export.{key} must be a list with something in it, got {value!r}")
        for platform in self.platforms:
            if platform not in PLATFORMS:
                raise UserError(f"export.platforms must be of {', '.join(PLATFORMS)}, got {platform!r}")

    def solver_tables(self, process: NoiseProcess, spec: SampleSpec) -> dict[str, Steps]:
        """The tables by name, `"ddpm_250"`.

        Raises:
          UserError: a solver or number of steps that the process does not have, or one name twice.
        """
        tables: dict[str, Steps] = {}
        for asked in self.tables or ({"solver": spec.solver_section, "steps": spec.steps},):
            if not isinstance(asked, Mapping) or not set(asked) <= {"solver", "steps"}:
                raise UserError(f"export.tables: {asked!r} is not of the form {{'solver': 'ddpm', 'steps': 250}}")
            solver, steps = asked.get("solver", "ddpm"), asked.get("steps", 250)
            table = make_table(solver, process, steps)
            name = f"{solver['name'] if isinstance(solver, Mapping) else solver}_{steps}"
            if name in tables:
                raise UserError(f"export.tables: {name} is there twice")
            tables[name] = table
        return tables


def write_exported(flex: FlexiDiT, section: Export, tables: Mapping[str, Steps], folder: Path) -> list[str]:
    """Writes the folder, whole or not at all.

    Returns:
      The names of the pairs.

    Raises:
      UserError: a model whose programs do not run on other platforms, pairs that it does not have, a folder that
        holds something else, or one that cannot be written.
    """
    model = flex.model
    if model.attention not in ("auto", "xla"):
        raise UserError(
            f"model.attention={model.attention!r} exists on one platform and for fixed batches;"
            " export with --config.model.attention=auto"
        )
    channels = section.guidance_channels
    if channels is not None and not 1 <= channels <= model.latent[-1]:
        raise UserError(f"export.guidance_channels must lie in 1..{model.latent[-1]}, got {channels}")
    pairs = runnable_pairs(flex.patches) if section.pairs is None else parse_pairs(section.pairs, flex.patches)
    if folder.exists() and not _is_export(folder):
        raise UserError(f"{folder} is there and holds no export; name another --out")

    engine = Engine(model, flex.params, flex.patches, flex.merge_adapters, apart=False)  # few names, and any platform
    with folder_written_aside(folder) as aside:
        np.savez(aside / "tables.npz", **{name: table.rows() for name, table in tables.items()})
        modes = dict.fromkeys(patch for pair in pairs for patch in Program(*pair).modes)
        read = {pair_text(*pair): step_weights(engine, pair) for pair in pairs}
        made = {"modulations": (export_modulations, modulation_weights)}
        made |= {"kept": (export_kept, kept_weights)} if engine.keeps else {}
        for patch, (kind, (_, weights_of)) in itertools.product(modes, made.items()):
            read[f"{kind}_{short_patch_name(patch)}"] = weights_of(engine, patch)
        names, weights = _weights(read)
        np.savez(aside / "weights.npz", **weights)  # one array after the other: no second copy of the model
        programs = {"noise": _write(aside / "noise.bin", export_noise(model.latent, section.platforms))}
        for pair in pairs:
            text = pair_text(*pair)
            content = export_step(engine, pair, channels, section.platforms)
            programs[text] = _write(aside / f"step_{text.replace('+', '_')}.bin", content) | {"weights": names[text]}
        before: dict[str, Any] = {kind: {} for kind in made}
        before |= {"modulated": modulated(engine, flex.patches[0])} if engine.keeps else {}
        for patch, (kind, (exported, _)) in itertools.product(modes, made.items()):
            name = f"{kind}_{short_patch_name(patch)}"
            written = _write(aside / f"{name}.bin", exported(engine, patch, section.platforms))
            before[kind][short_patch_name(patch)] = written | {"weights": names[name]}
        manifest = {
            "format": serve_exported.FORMAT,
            "jax": jax.__version__,
            "platforms": list(section.platforms),
            "latent": model.latent,
            "modes": [short_patch_name(patch) for patch in flex.patches],
            "cond": {
                name: {"shape": like.shape[1:], "dtype": str(like.dtype), "limits": model.conditioner.limits.get(name)}
                for name, like in sorted(shapes(model.conditioner, 1).items())
            },
            "own": list(getattr(model.conditioner, "own", ())),
            "guidance_channels": channels,
            "scale_ratio": SCALE_RATIO,
            "arguments": ["weights", "tables", "rows", "scale", "pick", *Carry._fields, "cond", "guide_cond", "noise"],
            "columns": Steps._fields,
            "tables": list(tables),
            "programs": programs,
            **before,
            "weights": {name: {"shape": leaf.shape, "dtype": str(leaf.dtype)} for name, leaf in weights.items()},
        }
        shutil.copyfile(SCRIPT, aside / SCRIPT.name)
        (aside / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return [pair_text(*pair) for pair in pairs]


def _is_export(folder: Path) -> bool:
    """Whether the manifest there is an export's: generated images have a file of that name too."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and {"format", "programs"} <= manifest.keys()


def _weights(read: Mapping[str, Mapping[str, Array]]) -> tuple[dict[str, list[str]], dict[str, Array]]:
    """The names of every program's weights in order, and the arrays; one that several share has its first name."""
    first: dict[int, str] = {}
    names, arrays = {}, {}
    for program, leaves in read.items():
        names[program] = [first.setdefault(id(leaf), name) for name, leaf in leaves.items()]
        arrays |= {first[id(leaf)]: leaf for leaf in leaves.values()}
    return names, arrays


def _write(file: Path, content: bytes) -> dict[str, Any]:
    file.write_bytes(content)
    return {"file": file.name, "sha256": hashlib.sha256(content).hexdigest()}
