"""What a job says and asks when it is one of several processes."""

from __future__ import annotations

import importlib.metadata
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from ml_collections import ConfigDict

from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.cluster.messages import same
from flexidit_jax.common.config import leaves
from flexidit_jax.common.errors import UserError

#: packages whose versions decide what is computed and written
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint")
#: words of the command line that belong to one process of several
OWN = ("--coordinator", "--processes", "--process", "--heartbeat", "--patience", "--mode")


def agree(config: ConfigDict, workdir: Path, images: str | None) -> None:
    """Refuses processes that were started with other configs or packages, or find other images.

    Args:
      images: the dataset's `fingerprint`, None where it has none.

    Raises:
      UserError: the process that differs and in what, or the one that did not come.
    """
    told = {f"config.{key}": value for key, value in leaves(config)} | {"--workdir": str(workdir)}
    told["the hash of all images' names"] = images
    same("the start", told | {name: importlib.metadata.version(name) for name in PACKAGES})


def check_watching(preview_every: int | None) -> None:
    """Refuses what only one process by itself can watch, where there are several.

    Raises:
      UserError: pictures are asked for; a process holds a part of the parameters, and sampling wants all.
    """
    if preview_every is not None and cluster.several():
        raise UserError(
            f"train.preview_every={preview_every} draws in one process, and here are several; set it to None"
        )


def alone(mode: str, argv: Sequence[str] | None = None) -> str:
    """The command of this process, by itself and with another mode."""
    words = sys.argv[1:] if argv is None else argv
    own = {i for i, word in enumerate(words) if word.partition("=")[0] in OWN}
    own |= {i + 1 for i in own if "=" not in words[i]}  # the value is a word of its own
    kept = [word for i, word in enumerate(words) if i not in own]
    return shlex.join(["python", "-m", "flexidit_jax.main", *kept, f"--mode={mode}"])
