"""GPUs that are not there: XLA compiles for any whose description it is given, on a machine without one.

A description is a text in `gpus/`, what XLA asks a card's driver. Without a card nothing is tried out: which product
kernels are fastest on it, the compiler guesses.
"""

from __future__ import annotations

import re
from pathlib import Path

import jax

from flexidit_jax.common.chips import GPUS
from flexidit_jax.common.errors import UserError, first_line, nearest
from flexidit_jax.programs.slices import Slice

#: of one machine, joined by NVLink; beyond that a network has a say
MOST = 8


def gpus(name: str) -> Slice:
    """The devices of `gpu:h100`, one card, or of `gpu:h100x8`, a machine of as many.

    Raises:
      UserError: no such card, too many of them, or XLA's compiler for CUDA is not installed.
    """
    found = re.fullmatch(r"gpu:([^x]+)(?:x([1-9]\d*))?", name)
    if found is None or found[1] not in GPUS:
        raise UserError(f"no GPU {name!r}{nearest(name, examples())}")
    kind, count = found[1], int(found[2] or 1)
    if count > MOST:
        raise UserError(f"no GPU {name!r}: a machine of them has up to {MOST}; gpu:{kind}x{MOST} would do")
    text = description(kind)
    memory = float(re.search(r"^ +device_memory_size: (\d+)$", text, re.MULTILINE)[1])
    return Slice(name, _devices(text, count), GPUS[kind], memory)


def examples() -> list[str]:
    """One card of each kind, and a machine of them."""
    return [f"gpu:{kind}{several}" for kind in GPUS for several in ("", f"x{MOST}")]


def description(kind: str) -> str:
    """The text that XLA compiles for, with its source."""
    return (Path(__file__).parent / "gpus" / f"{kind}.txtpb").read_text()


def _devices(text: str, count: int) -> list[jax.Device]:
    from jax.experimental import topologies

    jax.config.update("jax_platforms", "cpu")  # what runs here runs on the CPU
    shape = f"1x1x{count}"  # one slice, one machine, its cards
    try:
        made = topologies.get_topology_desc(topology_name=shape, platform="cuda", target_config=text, topology=shape)
    except NotImplementedError:  # of a platform without its plug-in
        raise UserError(
            '--topology needs the compiler for CUDA, which is not installed: pip install -e ".[gpu]", about 5.5 GB'
        ) from None
    except RuntimeError as error:
        raise UserError(f"the compiler for CUDA does not start ({first_line(error)})") from None
    return list(made.devices)
