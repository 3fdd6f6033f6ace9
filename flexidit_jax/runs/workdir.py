"""The run's folder: may it be written, and who is at work in it? What binds it is in `binding`."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.cluster.messages import first_does, gathered
from flexidit_jax.common.config import NO_DEFAULTS
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import folder_named, written_aside
from flexidit_jax.runs.binding import CONFIG_FILE, check_config
from flexidit_jax.runs.lock import at_work
from flexidit_jax.runs.recovery import has_checkpoint

#: before the random part of the name of a file that lies in the folder for a moment
_TOKEN = ".flexidit_jax-"


@contextmanager
def claimed(workdir: Path, config: dict[str, Any], defaults: Mapping[str, Any] = NO_DEFAULTS) -> Iterator[None]:
    """Checks the config against that recorded, makes the folder and keeps other trainings out meanwhile.

    Of several processes each checks, and the first locks. What may still be refused comes before `record`.

    Raises:
      UserError: not writable, trained with another config (the first differing key is named), another process trains
        there, or not the same folder for all processes (said by each).
    """
    if has_checkpoint(workdir) and (workdir / CONFIG_FILE).is_file():  # a start that saved nothing binds no other
        check_config(workdir, config, defaults)
    with ExitStack() as working:
        _first_does("the claim", workdir, lambda: _take(workdir, working))
        if cluster.several():
            _check_shared(workdir)
        yield


def record(workdir: Path, config: dict[str, Any]) -> None:
    """Writes the config into a folder that is claimed, in place of that of the start before.

    Raises:
      UserError: it cannot be written (said by each of several processes).
    """
    record_text(workdir, CONFIG_FILE, json.dumps(config, indent=2))


def record_text(workdir: Path, name: str, text: str) -> None:
    """Writes a text into a folder that is claimed, in place of that of the start before.

    Raises:
      UserError: it cannot be written (said by each of several processes).
    """
    _first_does(f"the record of {name}", workdir, lambda: _write(workdir / name, text))


def _first_does(what: str, workdir: Path, do: Callable[[], None]) -> None:
    """The first of several processes does it in the folder; where it is refused, it is so for all."""

    def written() -> None:
        try:
            do()
        except OSError as error:
            raise UserError(
                f"cannot write to --workdir={workdir} ({error.strerror}); name a folder you may write"
            ) from None

    first_does(what, written)


def _take(workdir: Path, working: ExitStack) -> None:
    workdir.mkdir(parents=True, exist_ok=True)
    working.enter_context(at_work(workdir, "wait for its end, or name another --workdir"))


def _write(file: Path, text: str) -> None:
    with written_aside(file) as unfinished:
        unfinished.write_text(text + "\n")


def _check_shared(workdir: Path) -> None:
    """Looks for a file that process 0 makes there, under a name that no host can remember to be absent.

    Process 0 has the folder to itself, and deletes with its own what killed starts left.
    """
    token = f"{_TOKEN}{secrets.token_hex(8)}"
    try:
        if cluster.first():
            (workdir / token).touch()
        theirs, *_ = gathered("the run's folder", token)
        seen = gathered("the look into the run's folder", (workdir / theirs).is_file())
    finally:
        if cluster.first():
            for own in workdir.glob(_TOKEN + "[0-9a-f]" * 16):
                own.unlink(missing_ok=True)
    if blind := [cluster.name(process) for process, sees in enumerate(seen) if not sees]:
        raise UserError(
            f"--workdir={workdir} of {cluster.name(0)} is not that of {', '.join(blind)}; name a folder that all hosts"
            " share"
        )


def out_folder(out: str | None, default: Path, flag: str = "--out") -> Path:
    """The folder that is asked for, which could be written.

    Raises:
      UserError: it could not (see `check_writable`), or its name is none (see `folder_named`).
    """
    folder = default if out is None else folder_named(out, flag)
    check_writable(folder, flag)
    return folder


def check_writable(folder: Path, flag: str = "--workdir") -> None:
    """Refuses, before long work and without leaving anything, a folder that could not be made or written.

    Raises:
      UserError: its nearest existing parent takes no files.
    """
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise UserError(f"cannot write to {folder}; name another {flag}")
    try:
        tempfile.TemporaryFile(dir=existing).close()  # root may write everywhere, and yet cannot, such as in /proc
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({existing}: {error.strerror}); name another {flag}") from None
