"""The largest arrays that one run of a compiled program makes in the main memory of a chip, and what makes them.

Arguments, and arrays that take their place, are not among them: weights, state and latents that are handed in and given
back. What is left shows that no scores of attention are ever whole, nor kernels that a mesh keeps apart.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from flexidit_jax.programs.hlo import Instruction, Program
from flexidit_jax.programs.memory_traffic import FREE

#: arrays that are told of a program
MOST = 3


class Made(NamedTuple):
    """Arrays of one shape.

    Attributes:
      bytes: of one of them.
      shape: as the compiler prints it.
      by: what makes it, as the model names its parts: that of the first.
    """

    bytes: int
    shape: str
    by: str


def largest_arrays(program: Program, most: int = MOST) -> list[Made]:
    """One of each shape, the largest first."""
    runs, _ = program.runs()
    fused, given = program.fused(), _given(program)
    found: dict[str, Made] = {}
    for name in runs:
        if name in fused:
            continue
        for instruction in program.computations[name].instructions.values():
            if instruction.opcode in FREE:
                continue
            for piece in instruction.pieces:
                if piece.space == 0 and piece.shape not in given:
                    found.setdefault(piece.shape, Made(piece.bytes, piece.shape, _maker(instruction)))
    return sorted(found.values(), key=lambda made: -made.bytes)[:most]


def _given(program: Program) -> set[str]:
    """Shapes of the arguments."""
    entry = program.computations[program.entry].instructions.values()
    return {piece.shape for one in entry if one.opcode == "parameter" for piece in one.pieces}


def _maker(instruction: Instruction) -> str:
    """The last parts of the name that jax gave what an instruction computes, or else its own."""
    found = re.search(r'op_name="([^"]*)"', instruction.attributes)
    return "/".join(found[1].split("/")[-3:]) if found else instruction.name
