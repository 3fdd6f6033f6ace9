"""The kernels that a GPU launches in one run of a compiled program, what each is, and what it moves.

Every instruction that is not fused into another is a kernel, a call of a library or a copy, and is launched as often
as it runs. A product is a kernel with a matrix product or a convolution in it, whoever wrote it (XLA, Triton,
cuBLAS); attention is a fused kernel of cuDNN's. A GPU may replay many launches as one graph: they count all the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from flexidit_jax.programs.hlo import Instruction, Program
from flexidit_jax.programs.memory_traffic import FREE, moved

PRODUCT, ATTENTION, OTHER = "product", "attention", "other"
#: opcodes of a product
PRODUCTS = ("dot", "convolution", "ragged-dot", "scaled-dot")
#: how names of library calls begin
LIBRARIES = {"__cublas$": PRODUCT, "__cudnn$conv": PRODUCT, "__cudnn$fmha": ATTENTION}
#: opcodes that start what is counted where it runs
ASYNC = ("async-start", "async-update")


class Launch(NamedTuple):
    """A kernel of a program.

    Attributes:
      name: of its instruction.
      kind: PRODUCT, ATTENTION or OTHER.
      times: launches in one run of the program, loops multiplied out.
      bytes: that one launch moves, an estimate (see `programs.memory_traffic`).
    """

    name: str
    kind: str
    times: float
    bytes: int


class Counts(NamedTuple):
    """One run of a program on one device: launches, those of kind OTHER, and the bytes that these move."""

    launches: float
    launches_other: float
    bytes_other: float


def counted(program: Program) -> Counts:
    """What stands between the products and attention, beside how many launches there are."""
    every = list(launches(program))
    other = [one for one in every if one.kind == OTHER]
    return Counts(
        sum(one.times for one in every), sum(one.times for one in other), sum(one.times * one.bytes for one in other)
    )


def launches(program: Program) -> Iterator[Launch]:
    """Of one run on one device."""
    runs, _ = program.runs()
    never = program.fused() | _counted_loops(program)
    for name, times in runs.items():
        if name in never:
            continue
        here = program.computations[name]
        for instruction in here.instructions.values():
            opcode = instruction.opcode
            if opcode not in FREE and opcode not in ASYNC and not opcode.endswith("-done"):
                yield Launch(instruction.name, _kind(program, instruction), times, moved(program, here, instruction))


def _counted_loops(program: Program) -> set[str]:
    """Conditions of loops whose number of iterations the compiler knows: it never asks them."""
    return {
        instruction.called("condition")[0]
        for computation in program.computations.values()
        for instruction in computation.instructions.values()
        if instruction.opcode == "while" and program.trips(instruction) is not None
    }


def _kind(program: Program, instruction: Instruction) -> str:
    if instruction.opcode in PRODUCTS:
        return PRODUCT
    if instruction.opcode == "custom-call":
        target = re.search(r'custom_call_target="([^"]*)"', instruction.attributes)[1]
        return next((kind for start, kind in LIBRARIES.items() if target.startswith(start)), OTHER)
    if instruction.opcode == "fusion":
        inner = program.computations[instruction.called("calls")[0]].instructions.values()
        return next((kind for kind in (_kind(program, i) for i in inner) if kind != OTHER), OTHER)
    return OTHER
