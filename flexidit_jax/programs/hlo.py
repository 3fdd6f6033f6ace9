"""A compiled program's text (`Compiled.as_text()`) as computations of instructions, and how often each runs.

A scan over blocks is a `while` whose body stands in the text once. What one run of the program does is
therefore a sum over computations, each weighted by how often it runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod

#: bits an element; what is not listed (tokens, opaque) holds nothing
BITS = {
    "pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "s32": 32, "u32": 32, "s64": 64, "u64": 64,
    "f8e4m3fn": 8, "f8e5m2": 8, "bf16": 16, "f16": 16, "f32": 32, "f64": 64, "c64": 64, "c128": 128,
}  # fmt: skip

_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_START = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclass(frozen=True)
class Piece:
    """One array of an instruction's result.

    Attributes:
      bytes: of its elements, without padding.
      space: memory space; 0 is HBM (or host memory on a CPU), others lie on the chip itself.
      shape: as printed, `bf16[2,3]`.
    """

    bytes: int
    space: int = 0
    shape: str = ""


@dataclass(frozen=True)
class Instruction:
    """One line.

    Attributes:
      name, opcode: as printed, without `%`.
      pieces: the arrays of its result; more than one for a tuple.
      operands: names.
      attributes: the rest of the line.
      root: whether it is what its computation returns.
    """

    name: str
    opcode: str
    pieces: tuple[Piece, ...]
    operands: tuple[str, ...]
    attributes: str
    root: bool

    def called(self, key: str) -> list[str]:
        """The computations named by an attribute, such as `body`."""
        found = re.search(rf"\b{key}=(\{{[^}}]*\}}|%?[\w.\-]+)", self.attributes)
        return re.findall(r"[\w.\-]+", found[1]) if found else []

    @property
    def element(self) -> int | None:
        """Which array of a tuple a `get-tuple-element` is; None for others."""
        found = re.search(r"\bindex=(\d+)", self.attributes) if self.opcode == "get-tuple-element" else None
        return int(found[1]) if found else None


@dataclass
class Computation:
    """Instructions in order, by name."""

    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @property
    def root(self) -> Instruction:
        return next(i for i in reversed(self.instructions.values()) if i.root)


@dataclass
class Program:
    """A module.

    Attributes:
      computations: by name.
      entry: the name of the first one run.
      partitions: devices that run the program together.
    """

    computations: dict[str, Computation]
    entry: str
    partitions: int

    def runs(self) -> tuple[dict[str, float], list[str]]:
        """How often each computation runs while the program runs once; fusions count as run by their caller.

        Returns:
          Runs by name (computations that never run are absent), and the loops whose number of iterations the
          text does not tell: these are counted once. All branches of a conditional count.
        """
        counts: dict[str, float] = {}
        unknown: list[str] = []

        def visit(name: str, times: float) -> None:
            counts[name] = counts.get(name, 0) + times
            for instruction in self.computations[name].instructions.values():
                if instruction.opcode == "while":
                    trips = self.trips(instruction)
                    if trips is None:
                        unknown.append(instruction.name)
                    for key in ("body", "condition"):
                        visit(instruction.called(key)[0], times * (1 if trips is None else trips))
                elif instruction.opcode in ("fusion", "call", "conditional") or instruction.opcode.startswith("async"):
                    for key in ("calls", "branch_computations", "true_computation", "false_computation"):
                        for callee in instruction.called(key):
                            visit(callee, times)
                    if instruction.opcode == "call":
                        visit(instruction.called("to_apply")[0], times)

        visit(self.entry, 1)
        return counts, unknown

    def fused(self) -> set[str]:
        """The computations inside fusions, whose intermediate values never reach memory."""
        inside: set[str] = set()

        def visit(name: str) -> None:
            inside.add(name)
            for instruction in self.computations[name].instructions.values():
                for callee in instruction.called("calls"):
                    visit(callee)

        for computation in self.computations.values():
            for instruction in computation.instructions.values():
                if instruction.opcode == "fusion":
                    visit(instruction.called("calls")[0])
        return inside

    def trips(self, loop: Instruction) -> int | None:
        """Iterations of a `while`: what the compiler recorded, or the bound of `i < n` counting from 0 by 1.

        That is how jax's `scan` and `fori_loop` with static bounds arrive here.
        """
        if recorded := _TRIPS.search(loop.attributes):
            return int(recorded[1])
        condition = self.computations[loop.called("condition")[0]]
        root = condition.root
        if root.opcode != "compare" or "direction=LT" not in root.attributes:
            return None
        bound = condition.instructions[root.operands[1]]
        found = re.match(r"(\d+)\)", bound.attributes) if bound.opcode == "constant" else None
        return int(found[1]) if found else None


def parse(text: str) -> Program:
    """Reads the text of a compiled module."""
    computations: dict[str, Computation] = {}
    entry, here = "", None
    for line in text.splitlines():
        if here is None:
            if header := _HEADER.match(line):
                here = computations[header[2]] = Computation(header[2])
                entry = header[2] if header[1] else entry
        elif line == "}":  # the text of a kernel may spread over lines
            here = None
        elif (instruction := _instruction(line)) is not None:
            here.instructions[instruction.name] = instruction
    partitions = re.search(r"num_partitions=(\d+)", text[: text.find("\n")])
    return Program(computations, entry, int(partitions[1]) if partitions else 1)


def pieces(text: str) -> Iterator[Piece]:
    """The arrays of a printed shape, `f32[2,3]{1,0:T(8,128)S(1)}` or a tuple of such."""
    for kind, sides, layout in _ARRAY.findall(text):
        space = re.search(r"S\((\d+)\)", layout)
        elements = prod(int(side) for side in sides.split(",") if side)
        yield Piece(elements * BITS.get(kind, 0) // 8, int(space[1]) if space else 0, f"{kind}[{sides}]")


def _instruction(line: str) -> Instruction | None:
    start = _START.match(line)
    if start is None:
        return None
    rest = line[start.end() :]
    cut = _closing(rest, 0) if rest.startswith("(") else rest.find(" ")
    shape, rest = rest[:cut], rest[cut:].lstrip()
    opcode, _, _ = rest.partition("(")
    close = _closing(rest, len(opcode))
    inner = rest[len(opcode) + 1 : close - 1]
    # constants and parameters print their value or number where others print operands
    plain = opcode in ("constant", "parameter")
    operands = () if plain else tuple(re.findall(r"%([\w.\-]+)", inner))
    return Instruction(
        start[2], opcode, tuple(pieces(shape)), operands, f"{inner}){rest[close:]}" if plain else rest[close:],
        bool(start[1]),
    )  # fmt: skip


def _closing(text: str, start: int) -> int:
    """One past the parenthesis that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i + 1
    return len(text)
