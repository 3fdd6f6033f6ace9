"""The command line: `python -m flexidit_jax.main --config=configs/digits.py`."""

from __future__ import annotations

import argparse
import ast
import importlib
import pkgutil
import re
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from ml_collections import ConfigDict

from flexidit_jax.common.allocator import keep_freed_memory
from flexidit_jax.common.cluster import environment
from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.config import leaves, load_config, override
from flexidit_jax.common.docstrings import opening
from flexidit_jax.common.errors import STOPPED, UserError, closest, nearest
from flexidit_jax.common.files import folder_named
from flexidit_jax.common.program_cache import keep_programs
from flexidit_jax.common.progress import detailed


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help shows what there is")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one job.

    Returns:
      The exit status: 0 done, 2 bad input (one line says what), 1 samples that are not finite (one line says which);
      130 stopped by Ctrl-C and `--stopped-status`, 0 unless said, by SIGTERM: the same command goes on.
    """
    try:
        return cluster.leave(_run(sys.argv[1:] if argv is None else argv))
    except UserError as error:
        print(f"error: {cluster.me()}{error}", file=sys.stderr)
        return cluster.leave(error.status, failed=True)
    except KeyboardInterrupt:
        print(f"{cluster.me()}interrupted", file=sys.stderr)
        return cluster.leave(130, failed=True)
    except Exception:
        if not cluster.several():
            raise
        cluster.trace()
        return cluster.leave(1, failed=True)


def _run(argv: Sequence[str]) -> int:
    modes = _modes()
    kinds = ", ".join(modes)
    parser = _Parser(
        prog="python -m flexidit_jax.main",
        description="FlexiDiT: one diffusion transformer, several patch sizes.",
        epilog="Any key of the config is set with --config.KEY=VALUE; with --config=FILE --help lists them.",
        add_help=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE[:VARIANT]", help="such as configs/digits.py:smoke")
    parser.add_argument("--workdir", help="the run's folder (default: runs/<config name>)")
    parser.add_argument("--mode", default="train", metavar="MODE", help=f"one of {kinds} (default: train)")
    jobs = {mode: _said(mode) for mode in modes}
    shorts = ("num", "out", "prompts", "latents", "topology", "samples", "reference")
    takers = {flag: [mode for mode in modes if flag in jobs[mode].flags] for flag in shorts}
    parser.add_argument("--num", type=int, help="generate: how many images; short for --config.generate.num")
    parser.add_argument("--out", metavar="DIR", help=f"the folder to write, of {', '.join(takers['out'])}")
    parser.add_argument(
        "--prompts", metavar="FILE", help=f"{', '.join(takers['prompts'])}: a file with a prompt a line, or one prompt"
    )
    parser.add_argument("--latents", metavar="DIR", help="decode: a folder of samples whose latents are decoded again")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="one of several processes: where process 0 listens")
    parser.add_argument("--processes", type=int, metavar="N", help="how many they are; TPU pods and Slurm say it all")
    parser.add_argument("--process", type=int, metavar="I", help="which one this is, 0..N-1")
    parser.add_argument(
        "--heartbeat",
        type=int,
        metavar="SECONDS",
        default=cluster.HEARTBEAT,
        help=f"a process silent for so long counts as dead, which ends the others (default: {cluster.HEARTBEAT})",
    )
    parser.add_argument(
        "--patience",
        type=int,
        metavar="SECONDS",
        default=cluster.PATIENCE,
        help=f"so long processes wait for all of them to start (default: {cluster.PATIENCE})",
    )
    parser.add_argument(
        "--stopped-status",
        type=int,
        metavar="N",
        default=0,
        help="exit status when SIGTERM ends it early, all saved (default: 0); another tells a script to start it again",
    )
    parser.add_argument(
        "--topology", metavar="CHIPS", help="compile: v5e:16x16, gpu:h100; short for --config.compile.topology"
    )
    parser.add_argument(
        "--samples", metavar="IMAGES", help="evaluate: a folder or .npz file; several, with commas, are compared"
    )
    parser.add_argument("--reference", metavar="FILE", help="evaluate: statistics or images to compare them with")
    parser.add_argument("--verbose", action="store_true", help="say more: train prints the table of all parameters")
    parser.add_argument("--help", action="store_true", help="show this and exit")
    flags = [word for word in argv if not word.startswith("--config.")]
    known, rest = parser.parse_known_args(flags)
    if rest:
        raise UserError(f"unknown argument {rest[0]!r}{_meant(rest[0], known)}")
    if known.mode not in modes:
        raise UserError(f"unknown --mode={known.mode!r}{nearest(known.mode, modes)}")
    if known.help:
        parser.print_help()
        print("\nmodes:", *(f"  {mode:<21} {_line(job)}" for mode, job in jobs.items()), sep="\n")
        print(f"\n{jobs[known.mode].says}")
    own = jobs[known.mode].config
    if known.help and not known.config and own is None:
        return 0
    if not known.config and own is None:
        raise UserError("no --config given; start with --config=configs/digits.py")
    config, typed = load_config(known.config) if known.config else ConfigDict(own), {}
    for word in argv:
        if word.startswith("--config."):
            key, equals, value = word.removeprefix("--config.").partition("=")
            if not equals:
                raise UserError(f"{word} has no value; write --config.{key}=VALUE")
            override(config, key, value)
            typed[key] = word
    if not 0 <= known.stopped_status <= 255:
        raise UserError(f"--stopped-status={known.stopped_status} is no exit status; 0..255 would do")
    place = known.coordinator, known.processes, known.process, known.heartbeat, known.patience
    environment.check_flags(*place)
    for flag, those in takers.items():
        if (value := getattr(known, flag)) is not None:
            if known.mode not in those:
                raise UserError(f"--{flag} is for --mode={' or '.join(those)}, not for --mode={known.mode}")
            name, _, key = (path := jobs[known.mode].flags[flag]).partition(".")
            section = config.get(name) or ConfigDict()
            with section.ignore_type():
                if path in typed and section[key] != value:
                    raise UserError(f"{typed[path]} and --{flag}={value} say different things; give one of them")
                section[key] = value
            config[name], typed[path] = section, f"--{flag}={value}"
    from flexidit_jax.experiment.typed import let_win, typed_keys, unread_options  # jax, which flags do not need

    let_win(config, typed)
    if known.help:
        return _explain(known, config)
    if (holds := {*config}) and known.mode not in holds and holds <= {*modes}:
        raise UserError(f"{known.config} is for --mode={' or '.join(sorted(holds))}, not for --mode={known.mode}")
    file, _, variant = (known.config or known.mode).partition(":")
    keep_freed_memory()
    name = Path(file).stem + (f"_{variant}" if variant else "")
    workdir = Path("runs") / name if known.workdir is None else folder_named(known.workdir, "--workdir")
    keep_programs(workdir)
    job = importlib.import_module(f"flexidit_jax.jobs.{known.mode}")  # no device is touched before `run`
    if getattr(job, "SEVERAL_PROCESSES", False):
        cluster.join(*place)
    else:
        environment.check_alone(f"--mode={known.mode}", known.processes)
    if (left := unread_options(typed, job.READS)) and cluster.first():
        print(f"--mode={known.mode} does not read {', '.join(typed[key] for key in left)}", flush=True)
    with typed_keys(typed), detailed(known.verbose):
        status = job.run(config, workdir)
    return known.stopped_status if status == STOPPED else status


def _meant(word: str, known: argparse.Namespace) -> str:
    """A hint at the flag that an unknown argument was meant for, or at a key, first of the mode's own section."""
    name, _, value = word.lstrip("-").partition("=")
    flags = {flag.replace("_", "-"): f"--{flag.replace('_', '-')}" for flag in vars(known)}
    try:
        paths = [path for path, _ in leaves(load_config(known.config))] if known.config else []
    except UserError:
        paths = []
    meant = dict(flags)
    for path in sorted(paths, key=lambda path: (not path.startswith(f"{known.mode}."), path.count("."))):
        for key in (path, path.rpartition(".")[2]):
            meant.setdefault(key, f"--config.{path}={value or 'VALUE'}")
    if close := closest(name, meant):
        return f"; did you mean {meant[close[0]]!r}?"
    return nearest(name, flags.values())


def _explain(known: argparse.Namespace, config: ConfigDict) -> int:
    """Prints every key of a config with its value and what it means, then why it is refused."""
    from flexidit_jax.experiment.experiment import build_experiment
    from flexidit_jax.experiment.explained import explained

    mode = known.mode if known.mode in config or "train" in config else next(iter(config), known.mode)
    job = importlib.import_module(f"flexidit_jax.jobs.{mode}")
    said, refused = explained(config, getattr(job, "check", build_experiment))
    print(f"\nkeys of {known.config or f'--mode={mode}'}:")
    for key, value in leaves(config):
        print(f"  --config.{key}={value!r}")
        print(textwrap.indent(textwrap.fill(said[key], 100), " " * 8))
    if refused is not None:
        raise refused
    return 0


def _modes() -> list[str]:
    """Every module of `jobs/` is a mode; its helpers live in folders."""
    folder = Path(__file__).parent / "jobs"
    return sorted(module.name for module in pkgutil.iter_modules([str(folder)]) if not module.ispkg)


def _line(job: _Job) -> str:
    """What a mode does, in one line."""
    return re.sub(r"^`--mode=[^`]*`: ", "", opening(job.says))


class _Job(NamedTuple):
    """What the file of a mode says of it.

    Attributes:
      says: what it does.
      flags: keys that flags are short for.
      config: what it runs where no `--config` is given; None where it needs one.
    """

    says: str
    flags: dict[str, str]
    config: dict[str, Any] | None


def _said(mode: str) -> _Job:
    """What the file of a mode says, which is not run for that."""
    file = ast.parse((Path(__file__).parent / "jobs" / f"{mode}.py").read_text())
    values = {node.targets[0].id: node.value for node in file.body if isinstance(node, ast.Assign)}
    flags, config = (ast.literal_eval(values[name]) if name in values else None for name in ("FLAGS", "CONFIG"))
    return _Job(ast.get_docstring(file), flags or {}, config)


def start() -> None:
    """`main` as a process of its own."""
    if status := main():
        cluster.end(status)  # the interpreter would wait for threads of a save that failed, some for good


if __name__ == "__main__":
    start()
