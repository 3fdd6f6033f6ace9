"""Weights that a compiled program copies before it reads them.

A product reads a weight where it lies. A scan over blocks slices each block's weights out of a stacked array first,
and a program may also transpose, lay out anew or convert what it was handed: memory read and written for nothing.
Followed are the arguments that hold weights, through tuples, loops that hand them on unchanged, and copies of copies.
"""

from __future__ import annotations

from collections.abc import Sequence

from flexidit_jax.programs.hlo import Computation, Instruction, Program

#: opcodes that change where elements lie or how they are written down, no value
MOVES = {
    "copy", "copy-start", "copy-done", "slice", "dynamic-slice", "transpose", "convert", "reshape", "bitcast-convert",
    "concatenate", "pad", "reverse",
}  # fmt: skip
#: that only rename
NAMES = ("bitcast", "optimization-barrier")
#: that may stand beside a move in a fusion
QUIET = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast"}


def weight_copies(program: Program, names: Sequence[str]) -> float | None:
    """Bytes of copies of weights that one run writes; None where the program has no argument of such a name.

    Args:
      names: how the names of arguments that hold weights begin, such as `params[`.
    """
    runs, _ = program.runs()
    fused = program.fused()
    held = _Held(program, names)
    if not any(map(held.argument, program.computations[program.entry].instructions.values())):
        return None
    return sum(
        times * _written(instruction)
        for name, times in runs.items()
        if name not in fused
        for instruction in program.computations[name].instructions.values()
        if _moves(program, instruction) and held.by(program.computations[name], instruction)
    )


def _written(move: Instruction) -> int:
    if move.opcode == "copy-done":
        return 0  # its start has it
    written = move.pieces[:1] if move.opcode == "copy-start" else move.pieces  # (to, from, context)
    return sum(piece.bytes for piece in written)


def _moves(program: Program, instruction: Instruction) -> bool:
    """Whether an instruction changes no value."""
    if instruction.opcode != "fusion":
        return instruction.opcode in MOVES
    inner = program.computations[instruction.called("calls")[0]].instructions.values()
    opcodes = {i.opcode for i in inner}
    return opcodes <= MOVES | QUIET and bool(opcodes & MOVES)


class _Held:
    """Which values of a program are weights, or copies of them."""

    def __init__(self, program: Program, names: Sequence[str]) -> None:
        self.program, self.names = program, tuple(f'op_name="{name}' for name in names)
        #: by the name of a computation that runs as the body of a loop or is called, what runs it and where that stands
        self.callers: dict[str, tuple[Computation, Instruction]] = {}
        for computation in program.computations.values():
            for instruction in computation.instructions.values():
                key = {"while": "body", "call": "to_apply"}.get(instruction.opcode)
                if key is not None:
                    self.callers[instruction.called(key)[0]] = (computation, instruction)

    def argument(self, instruction: Instruction) -> bool:
        """Whether an instruction of the entry is an argument that holds weights."""
        return instruction.opcode == "parameter" and any(name in instruction.attributes for name in self.names)

    def by(self, here: Computation, instruction: Instruction, element: int | None = None) -> bool:
        """Whether a value, or an element of a tuple, is a weight."""
        operands = [here.instructions[name] for name in instruction.operands]
        opcode = instruction.opcode
        if opcode == "parameter":
            return self._argument(here, instruction, element)
        if opcode in NAMES:
            return self.by(here, operands[0], element)
        if opcode == "get-tuple-element":
            return self.by(here, operands[0], instruction.element)
        if opcode == "tuple":
            return element is not None and self.by(here, operands[element])
        if opcode == "while":
            return self._unchanged(instruction, element) and self.by(here, operands[0], element)
        arrays = [one for one in operands if sum(piece.bytes for piece in one.pieces) > 8]  # not where a slice begins
        return bool(arrays) and _moves(self.program, instruction) and all(self.by(here, one) for one in arrays)

    def _argument(self, here: Computation, parameter: Instruction, element: int | None) -> bool:
        if here.name == self.program.entry:
            return self.argument(parameter)
        if here.name not in self.callers:
            return False
        outer, caller = self.callers[here.name]
        if caller.opcode == "while":
            return self._unchanged(caller, element) and self.by(outer, outer.instructions[caller.operands[0]], element)
        number = int(parameter.attributes.split(")")[0])
        return self.by(outer, outer.instructions[caller.operands[number]], element)

    def _unchanged(self, loop: Instruction, element: int | None) -> bool:
        """Whether the body of a loop hands on an element as it came."""
        body = self.program.computations[loop.called("body")[0]]
        if element is None or body.root.opcode != "tuple":
            return False
        value = body.instructions[body.root.operands[element]]
        while value.opcode in NAMES:
            value = body.instructions[value.operands[0]]
        if value.element != element:
            return False
        return body.instructions[value.operands[0]].opcode == "parameter"
