"""One program compiled: what it takes of a chip, what it says to others, and how long it could take at best."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import jax

from flexidit_jax.programs.collectives import Traffic, collectives
from flexidit_jax.programs.hlo import parse
from flexidit_jax.programs.largest_arrays import Made, largest_arrays
from flexidit_jax.programs.launches import counted
from flexidit_jax.programs.lower import Lowering
from flexidit_jax.programs.memory_traffic import moved_bytes
from flexidit_jax.programs.slices import Slice
from flexidit_jax.programs.weight_copies import weight_copies

GIB = 2**30


@dataclass(frozen=True)
class Compiled:
    """Figures of one program; bytes and FLOPs are those of one chip.

    Attributes:
      name, batch, chips: see `programs.lower.Lowering`.
      flops, recomputed: of one run.
      seconds: to compile.
      arguments, outputs, aliased, temporaries, code: bytes; outputs that take the place of arguments are aliased.
        None where the compiler gave up, since it did not fit; temporaries then are what it said it would need.
      fits: None where the device does not say how much memory it has.
      traffic: collectives of one run by kind.
      moved: bytes to and from HBM in one run, an estimate (see `programs.memory_traffic`).
      unknown_loops: loops whose iterations the text does not tell; what is in them is counted once.
      launches, launches_other, bytes_other: of one run on a GPU, None elsewhere: kernels, those of them that are
        neither product nor attention, and what these move (see `programs.launches`).
      weight_copies: bytes of weights that a GPU writes anew in one run (see `programs.weight_copies`).
      largest_batch: that fits, where it was asked for (see `programs.largest_batch`).
      kept: bytes of keys and values of texts, made once a prompt, which are among the arguments.
      largest: of the arrays that it makes (see `programs.largest_arrays`).
    """

    name: str
    batch: int
    chips: int
    flops: float
    recomputed: float
    seconds: float
    fits: bool | None
    arguments: int | None = None
    outputs: int | None = None
    aliased: int | None = None
    temporaries: int | None = None
    code: int | None = None
    traffic: Mapping[str, Traffic] | None = None
    moved: float | None = None
    unknown_loops: int = 0
    launches: float | None = None
    launches_other: float | None = None
    bytes_other: float | None = None
    weight_copies: float | None = None
    largest_batch: int | None = None
    kept: int = 0
    largest: Sequence[Made] = ()

    @property
    def total(self) -> int | None:
        """Bytes held while the program runs."""
        if self.arguments is None:
            return None
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code

    def bounds(self, where: Slice) -> dict[str, float] | None:
        """Seconds of one run that each part alone would take at its peak: an ESTIMATE, from below.

        Returns:
          compute (recomputation included), memory and links; None without the figures of a chip.
        """
        chip = where.chip
        if chip is None or self.traffic is None:
            return None
        return {
            "compute": (self.flops + self.recomputed) / (chip.tflops * 1e12),
            "memory": self.moved / (chip.bandwidth * 1e9),
            "links": sum(kind.sent for kind in self.traffic.values()) / (chip.links * 1e9),
        }

    def as_json(self, where: Slice) -> dict[str, Any]:
        """All of it; bytes held once more under `memory`, seconds of the estimate under `estimate`."""
        parts = {key: getattr(self, key) for key in ("arguments", "outputs", "aliased", "temporaries", "code", "total")}
        largest = [made._asdict() for made in self.largest]
        others = {"total": self.total, "memory": parts, "estimate": self.bounds(where), "largest": largest}
        return {**asdict(self), **others}


def compile_program(lowering: Lowering, where: Slice) -> Compiled:
    """Compiles one program and reads it.

    The compiler of a TPU refuses a program that does not fit; that is an answer and no error.
    """
    known = (lowering.name, lowering.batch, lowering.chips, lowering.flops, lowering.recomputed)
    lowered = lowering.lower()
    clock = time.perf_counter()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        seconds, needed = time.perf_counter() - clock, _needed(str(error))
        return Compiled(*known, seconds, fits=False, temporaries=needed, kept=lowering.kept)
    seconds = time.perf_counter() - clock
    memory = compiled.memory_analysis()
    program = parse(compiled.as_text())
    made = Compiled(
        *known,
        seconds,
        fits=None,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes,
        aliased=memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        traffic=collectives(program),
        moved=moved_bytes(program),
        unknown_loops=len(program.runs()[1]),
        kept=lowering.kept,
        largest=largest_arrays(program),
    )
    if where.devices[0].platform == "gpu":
        made = replace(made, **counted(program)._asdict(), weight_copies=weight_copies(program, lowering.weights))
    return made if where.hbm is None else replace(made, fits=made.total <= where.hbm)


def _needed(message: str) -> int | None:
    """Bytes that the compiler says it would need."""
    found = re.search(r"temporaries \(([\d.]+)([KMG])\)", message) or re.search(r"Used ([\d.]+)([KMG]) of", message)
    return int(float(found[1]) * 2 ** {"K": 10, "M": 20, "G": 30}[found[2]]) if found else None


def table(programs: Sequence[Compiled], where: Slice) -> str:
    """Markdown: memory, then what one run does."""
    lines = [
        "| program | batch | arguments | outputs, new | temporaries | total GiB | fits | compiled in |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in programs:
        new = None if one.outputs is None else one.outputs - one.aliased
        memory = (_gib(one.arguments), _gib(new), _gib(one.temporaries), _gib(one.total), _fits(one, where))
        lines.append(f"| {one.name} | {one.batch} | {' | '.join(memory)} | {one.seconds:.0f} s |")
    lines += _of_texts(programs)
    lines += _largest(programs)
    lines += _on_gpu(programs)
    lines += [
        "",
        "| program | model TFLOPs | recomputed | memory moved GiB | collectives: count, GiB | ESTIMATE | limit |",
        "|---|---|---|---|---|---|---|",
    ]
    for one in programs:
        work = f"{one.flops / 1e12:.3g} | {one.recomputed / 1e12:.3g}"
        if one.traffic is None:
            lines.append(f"| {one.name} | {work} | - | - | - | - |")
            continue
        said = "; ".join(f"{kind} {t.count:.0f}, {_gib(t.bytes)}" for kind, t in one.traffic.items()) or "none"
        bounds = one.bounds(where)
        least = max(bounds, key=bounds.get) if bounds else None
        best = f"{1e3 * bounds[least]:.3g} ms | {least}" if bounds else "- | -"
        lines.append(f"| {one.name} | {work} | {_gib(one.moved)} | {said} | {best} |")
    return "\n".join(lines)


def _of_texts(programs: Sequence[Compiled]) -> list[str]:
    """What is kept of texts, where they are read."""
    lines = [f"| {one.name} | {_gib(one.kept)} |" for one in programs if one.kept]
    heads = ("", "| program | of the arguments, keys and values of texts, GiB |", "|---|---|")
    return [*heads, *lines] if lines else []


def _largest(programs: Sequence[Compiled]) -> list[str]:
    """The largest arrays, where they are known."""
    lines = [
        f"| {one.name} | {'; '.join(f'{made.bytes / 2**20:.4g} {made.shape} {made.by}' for made in one.largest)} |"
        for one in programs
        if one.largest
    ]
    heads = ("", "| program | largest arrays that it makes, MiB |", "|---|---|")
    return [*heads, *lines] if lines else []


def _on_gpu(programs: Sequence[Compiled]) -> list[str]:
    """What a GPU launches, where there is one."""
    lines = [
        f"| {one.name} | {one.launches:.0f} | {one.launches_other:.0f} | {' | '.join(map(_gib, moved))} |"
        for one in programs
        if one.launches is not None
        for moved in [(one.bytes_other, one.weight_copies)]
    ]
    heads = (
        "",
        "| program | launches | neither product nor attention | these move GiB | copies of weights GiB |",
        "|---|---|---|---|---|",
    )
    return [*heads, *lines] if lines else []


def _fits(one: Compiled, where: Slice) -> str:
    if one.fits is None:
        return "-"
    limit = f"{where.hbm / GIB:.4g}"
    most = "" if one.largest_batch is None else f"; largest batch {one.largest_batch}"
    return (f"yes, of {limit}" if one.fits else f"NO, of {limit}") + most


def _gib(number: float | None) -> str:
    return "-" if number is None else f"{number / GIB:.3g}"
