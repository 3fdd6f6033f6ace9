"""Which noise process a model is for: what is recorded with its weights, what is asked for, and whether both agree."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from flexidit_jax.common import build
from flexidit_jax.common.arguments import shown
from flexidit_jax.common.build import Section
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.notes import note
from flexidit_jax.diffusion import sit
from flexidit_jax.diffusion.process import NoiseProcess

#: what weights that record no process are for: those of a DiT
OF_WEIGHTS = {"name": "gaussian"}
#: a SiT's names of tensors are a DiT's, so that its file's or folder's name alone may tell
SIT = re.compile(r"(?<![a-z])sit(?![a-z])", re.IGNORECASE)


def asked_process(asked: str | Section | None) -> Section | None:
    """The section that a name, a section or nothing stands for.

    Raises:
      UserError: there is no such process, or it takes no such key.
    """
    if asked is None:
        return None
    if not isinstance(asked, (str, Mapping)):
        raise UserError(f'process must be a name such as "sit", or a section with a name, got {shown(asked)}')
    section = {"name": asked} if isinstance(asked, str) else dict(asked)
    _made(section)
    return section


def process_of(path: Path, recorded: Section | None, asked: Section | None) -> NoiseProcess:
    """The process of a model.

    Args:
      path: what holds it.
      recorded: with it; None of weights by themselves.
      asked: from `asked_process`; a key that it leaves out is the recorded one.

    Raises:
      UserError: another one is asked for than is recorded.
    """
    if recorded is None:
        process = _made(OF_WEIGHTS if asked is None else asked)
        if not isinstance(process, sit.Process) and any(map(SIT.search, path.absolute().parts[-2:])):
            note(
                f"{path} is named like a SiT, which its tensors do not tell, and is read for the"
                f' {build.describe(process)["name"]} process; if it is one, say process="sit" (in a config,'
                ' config.process = {"name": "sit"})'
            )
        return process
    process = _made(recorded)
    if asked is not None:
        wanted = _made({**recorded, **asked} if asked["name"] == recorded["name"] else asked)
        if wanted != process:
            raise UserError(
                f"{path} records the process {build.describe(process)}, but {build.describe(wanted)} is asked for;"
                " the one recorded would do"
            )
    return process


def _made(section: Section) -> NoiseProcess:
    return build.part("flexidit_jax.diffusion", "Process", section, "process")
