"""Which step of a run to use: the newest that is whole.

A run sets the damaged ones after it aside; a reader leaves them where they are. Setting aside is renaming, never
deleting: what is in a damaged step may be all that is left of something.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import orbax.checkpoint as ocp

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import folder_written_aside, unfinished
from flexidit_jax.runs.checksums import problem, recorded

Say = Callable[[str], None]

#: before the number of a step that stays; nobody counts or deletes it
KEPT = "kept-"


class Damaged(NamedTuple):
    """A step folder and the first thing wrong with it."""

    step: Path
    reason: str


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run's folder holds a step to resume from."""
    return bool(steps_of(workdir))


def newest_step(workdir: Path) -> Path:
    """The folder of the newest complete checkpoint, damaged or not.

    Raises:
      UserError: there is none.
    """
    steps = steps_of(workdir)
    if not steps:
        raise UserError(f"{workdir} holds no checkpoint; train there first, or name another folder")
    return max(steps, key=lambda path: int(path.name))


def steps_of(workdir: Path) -> list[Path]:
    """The folders of all complete steps, damaged or not."""
    folder = workdir / "checkpoints"
    return [path for path in folder.iterdir() if path.name.isdigit()] if folder.is_dir() else []


def newest_whole(steps: Iterable[Path], parts: Collection[str] | None = None) -> tuple[Path | None, list[Damaged]]:
    """The newest step in which nothing is wrong (None: there is none), and the damaged ones after it, newest first."""
    damaged: list[Damaged] = []
    for step in sorted(steps, key=lambda path: int(path.name), reverse=True):
        reason = problem(step, parts)
        if reason is None:
            return step, damaged
        damaged.append(Damaged(step, reason))
    return None, damaged


def settle(workdir: Path, say: Say) -> Path | None:
    """The newest whole step of a run, the damaged ones after it set aside; None where there are no steps.

    Args:
      workdir: the run's folder.
      say: gets a line for each step set aside, and for a step of an earlier version, which has no checksums.

    Raises:
      UserError: every step is damaged (all stay where they are), or one cannot be renamed.
    """
    steps = steps_of(workdir)
    if not steps:
        return None
    good, damaged = newest_whole(steps)
    if good is None:
        raise _none_whole(workdir, damaged)
    for step, reason in damaged:
        try:
            aside = set_aside(step)
        except OSError as error:
            raise UserError(f"{step} is damaged ({reason}) and cannot be renamed ({error.strerror})") from None
        say(f"checkpoint {step} is damaged ({reason}): set aside as {aside.name}, going on from step {good.name}")
    _say_if_unchecked(good, say)
    return good


def step_to_read(path: Path, parts: Collection[str]) -> Path:
    """`path` itself where it is a step folder, else a run's newest step whose `parts` are whole.

    Nothing is renamed, since the folder may be another's: what is damaged is said on standard error.

    Raises:
      UserError: that step is damaged, or all are, or there is none.
    """
    say = partial(print, file=sys.stderr, flush=True)
    if (path / "meta").is_dir() or recorded(path):
        reason = problem(path, parts)
        if reason is not None:
            raise damaged_error(path, reason)
        _say_if_unchecked(path, say)
        return path
    newest_step(path)  # refuses a folder without any
    good, damaged = newest_whole(steps_of(path), parts)
    if good is None:
        raise _none_whole(path, damaged)
    for step, reason in damaged:
        say(f"checkpoint {step} is damaged ({reason}): reading step {good.name}")
    _say_if_unchecked(good, say)
    return good


def set_aside(step: Path) -> Path:
    """Renames `12` to `damaged-12` (or `damaged-12.2`, ...), which nobody counts or deletes; returns its new path.

    Raises:
      OSError: the folder cannot be written.
    """
    aside, count = step.with_name(f"damaged-{step.name}"), 1
    while aside.exists():
        count += 1
        aside = step.with_name(f"damaged-{step.name}.{count}")
    return step.rename(aside)


def keep_linked(step: Path, kept: Path) -> None:
    """Makes `kept` a second name of every file of a step, and deletes what was kept before; costs no room at first.

    Raises:
      UserError: it cannot be written; what was kept before stays.
    """
    if kept.is_dir():
        return
    before = _numbered(kept.parent.glob(f"{KEPT}*"))
    with folder_written_aside(kept) as aside:
        shutil.copytree(step, aside, copy_function=_link, dirs_exist_ok=True)
    for other in before:
        shutil.rmtree(other, ignore_errors=True)


def _numbered(kept: Iterable[Path]) -> list[Path]:
    """Those named by a step; a user may have named others so."""
    return [path for path in kept if path.stem.removeprefix(KEPT).isdigit()]


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        try:
            shutil.copy2(source, target)
        except OSError as error:  # `copytree` would go on with the next file, and tell of all in the end
            raise UserError(f"cannot write to {target} ({error.strerror})") from None


def sweep(folder: Path) -> None:
    """Deletes what killed saves, and a killed `keep_linked`, left among the checkpoints; then their room is free."""
    half_kept = _numbered(folder.glob(unfinished(Path(f"{KEPT}*")).name))
    for stale in (*folder.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*"), *half_kept):
        shutil.rmtree(stale, ignore_errors=True)


def damaged_error(step: Path, reason: str) -> UserError:
    """What is said of a step that was asked for by name, or that has no checksums and cannot be read."""
    return UserError(
        f"checkpoint {step} is damaged or incomplete ({reason}); move that folder away to use the step before it"
    )


def _say_if_unchecked(step: Path, say: Say) -> None:
    if not recorded(step):
        say(f"checkpoint {step} was saved by an earlier version, without checksums: it is used unchecked")


def _none_whole(workdir: Path, damaged: Sequence[Damaged]) -> UserError:
    found = ", ".join(f"step {step.name} ({reason})" for step, reason in damaged)
    return UserError(
        f"every checkpoint in {workdir / 'checkpoints'} is damaged: {found}; all stay as they are:"
        " put a good copy there, or name another --workdir"
    )
