"""Bytes that one run of a compiled program moves to and from the main memory of a chip: an estimate.

The compiler's own count (`cost_analysis`) takes the body of a loop once. Here every instruction that is not
fused into another reads its operands and writes its result, as often as it runs; arrays that the TPU compiler
keeps on the chip (memory space 1) cost nothing, a slice costs what it takes and an update what it changes.
Temporary rereads inside a fusion and padding are not seen, so the truth is a little higher.
"""

from __future__ import annotations

from flexidit_jax.programs.hlo import Computation, Instruction, Program

#: that move nothing, or whose pieces are counted where they run
FREE = {
    "parameter", "constant", "get-tuple-element", "tuple", "bitcast", "while", "conditional", "call", "after-all",
    "partition-id", "replica-id", "add-dependency", "opt-barrier", "iota",
}  # fmt: skip
SLICES = ("slice", "dynamic-slice", "gather")


def moved_bytes(program: Program) -> float:
    """Bytes of one run on one chip."""
    runs, _ = program.runs()
    fused = program.fused()
    total = 0.0
    for name, times in runs.items():
        if name not in fused:
            here = program.computations[name]
            total += times * sum(moved(program, here, instruction) for instruction in here.instructions.values())
    return total


def moved(program: Program, here: Computation, instruction: Instruction) -> int:
    """Bytes of one run of an instruction that is not fused into another."""
    opcode = instruction.opcode
    if opcode in FREE or opcode.endswith("-done"):
        return 0
    if opcode == "copy-start":  # (to, from, context)
        return _hbm(instruction, 2)
    if opcode == "slice-start":  # ((from), to, context)
        return instruction.pieces[1].bytes * (1 + (instruction.pieces[1].space == 0))
    if opcode == "fusion":
        inner = program.computations[instruction.called("calls")[0]]
        sources = (here.instructions[name] for name in instruction.operands)
        read = sum(_read(program, inner, k) for k, source in enumerate(sources) if _hbm(source))
        return read + _written(program, inner, instruction)
    operands = [here.instructions[name] for name in instruction.operands]
    if opcode == "dynamic-update-slice":
        return 2 * _hbm(operands[1])
    if opcode == "custom-call":
        return sum(map(_hbm, operands)) + _results(here, instruction)
    read = _hbm(instruction) if opcode in SLICES else sum(map(_hbm, operands))
    return read + _hbm(instruction)


def _hbm(instruction: Instruction, first: int | None = None) -> int:
    return sum(piece.bytes for piece in instruction.pieces[:first] if piece.space == 0)


def _results(here: Computation, call: Instruction) -> int:
    """Bytes that a library writes for others: what is never read of several arrays is room for itself to work in."""
    if len(call.pieces) < 2 or call.root:
        return _hbm(call)
    read = {one.element for one in here.instructions.values() if call.name in one.operands}
    return sum(piece.bytes for k, piece in enumerate(call.pieces) if k in read and piece.space == 0)


def _read(program: Program, inner: Computation, number: int) -> int:
    """Bytes read of a fusion's operand: of one that is only sliced, the slices."""
    parameter = next(
        i for i in inner.instructions.values() if i.opcode == "parameter" and int(i.attributes.split(")")[0]) == number
    )
    whole, total = sum(piece.bytes for piece in parameter.pieces), 0
    names = _names(inner, parameter)
    for user in inner.instructions.values():
        places = [k for k, name in enumerate(user.operands) if name in names]
        if not places or user.name in names:
            continue
        if user.opcode in SLICES and places == [0]:
            total += sum(piece.bytes for piece in user.pieces)
        elif user.opcode == "dynamic-update-slice" and places == [0]:
            continue  # changed in place
        elif user.opcode == "fusion":
            total += sum(_read(program, program.computations[user.called("calls")[0]], k) for k in places)
        else:
            return whole
    return min(total, whole)


def _written(program: Program, inner: Computation, fusion: Instruction) -> int:
    """Bytes written by a fusion: of an array that is updated in place, the update."""
    root = inner.root
    outputs = [inner.instructions[name] for name in root.operands] if root.opcode == "tuple" else [root]
    return sum(
        _update(program, inner, output) or piece.bytes
        for output, piece in zip(outputs, fusion.pieces, strict=False)
        if piece.space == 0
    )


def _update(program: Program, inner: Computation, output: Instruction) -> int:
    """Bytes of the update where an output is an array updated in place, else 0."""
    while output.opcode == "bitcast":
        output = inner.instructions[output.operands[0]]
    if output.opcode == "fusion":
        nested = program.computations[output.called("calls")[0]]
        return _update(program, nested, nested.root)
    if output.opcode != "dynamic-update-slice":
        return 0
    return sum(piece.bytes for piece in inner.instructions[output.operands[1]].pieces)


def _names(inner: Computation, source: Instruction) -> set[str]:
    """`source` and what merely renames it."""
    names = {source.name}
    for instruction in inner.instructions.values():
        if instruction.opcode == "bitcast" and instruction.operands[0] in names:
            names.add(instruction.name)
    return names
