"""What the chips of a compiled program say to each other in one run, by kind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

from flexidit_jax.programs.hlo import Computation, Instruction, Program

KINDS = (
    "all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute", "collective-broadcast",
    "ragged-all-to-all",
)  # fmt: skip


@dataclass(frozen=True)
class Traffic:
    """All collectives of a kind in one run of a program.

    Attributes:
      count: how many run, loops multiplied out.
      bytes: of the arrays they make or reduce, on one chip: the whole result of an all-gather, the whole operand
        of the others.
      sent: bytes that one chip sends if each runs as a ring over its group of n: (n - 1) / n of `bytes`, twice
        that for an all-reduce, all of them for a permute.
    """

    count: float = 0
    bytes: float = 0
    sent: float = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.count + other.count, self.bytes + other.bytes, self.sent + other.sent)


def collectives(program: Program) -> dict[str, Traffic]:
    """By kind, in the order of `KINDS`; kinds that do not occur are absent.

    A collective that the TPU compiler spreads over several fusions keeps its channel in each and counts once;
    an all-reduce fused with the slice of it that a chip keeps is a reduce-scatter.
    """
    runs, _ = program.runs()
    fused = program.fused()
    found: dict[str, Traffic] = {}
    channels: set[str] = set()
    for name, times in runs.items():
        computation = program.computations[name]
        for instruction in computation.instructions.values():
            kind = instruction.opcode.removesuffix("-start")
            if kind not in KINDS:
                continue
            channel = re.search(r"channel_id=(\d+)", instruction.attributes)
            if name in fused and channel is not None:
                if channel[1] in channels:
                    continue
                channels.add(channel[1])
            if kind == "all-reduce" and name.startswith("all-reduce-scatter"):
                kind = "reduce-scatter"
            one = _traffic(kind, _operand_bytes(computation, instruction), group_size(instruction, program.partitions))
            found[kind] = found.get(kind, Traffic()) + Traffic(times, times * one.bytes, times * one.sent)
    return {kind: found[kind] for kind in KINDS if kind in found}


def group_size(instruction: Instruction, partitions: int) -> int:
    """Chips that take part in one collective, from any of the ways in which replica groups are printed."""
    text = instruction.attributes
    if iota := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", text):
        return int(iota[2])
    if flat := re.search(r"replica_groups=\[(\d+)\]<=", text):
        return int(flat[1])
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", text):
        return len(listed[1].split(","))
    if mesh := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", text):
        sizes = dict(re.findall(r"('[^']+')=(\d+)", mesh[1]))
        return prod(int(sizes[axis]) for axis in re.findall(r"'[^']+'", mesh[2]))
    return partitions


def _traffic(kind: str, operand: int, n: int) -> Traffic:
    if kind == "all-gather":
        return Traffic(1, operand * n, operand * (n - 1))
    if kind == "collective-permute":
        return Traffic(1, operand, operand)
    return Traffic(1, operand, operand * (n - 1) / n * (2 if kind == "all-reduce" else 1))


def _operand_bytes(computation: Computation, instruction: Instruction) -> int:
    return sum(piece.bytes for name in instruction.operands for piece in computation.instructions[name].pieces)
