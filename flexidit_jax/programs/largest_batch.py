"""The largest batch whose program fits a device.

What a program holds grows by nearly the same with every image. So a line through what was compiled says how many
images fit, and compiling for as many says whether that is so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from flexidit_jax.programs.cost import Compiled, compile_program
from flexidit_jax.programs.lower import Lowering
from flexidit_jax.programs.slices import Slice

#: programs compiled in a search, images of a batch
TRIES, MOST = 6, 2**16
#: batches are tried in steps of about this part of themselves
NEAR = 16


def with_largest_batch(first: Compiled, lowering: Lowering, where: Slice) -> Compiled:
    """What was compiled, and the largest batch of its kind that fits; where a device's memory is not known, without."""

    def compiled(batch: int) -> Compiled:
        print(f"compiling: {lowering.name}, batch {batch}", flush=True)
        return compile_program(replace(lowering, batch=batch), where)

    if where.hbm is None:
        return first
    return replace(first, largest_batch=largest_batch(first, compiled, lowering.multiple, where.hbm))


def largest_batch(first: Compiled, compiled: Callable[[int], Compiled], multiple: int, hbm: float) -> int | None:
    """The largest batch that was seen to fit, where one a step larger cannot be expected to.

    Args:
      first: of some batch.
      compiled: of any batch that is a multiple of `multiple`.
      hbm: bytes that there are.

    Returns:
      0 where the least batch does not fit, None where `TRIES` did not settle it; at most `MOST`.
    """
    tried = [first]
    for _ in range(TRIES):
        fits = max((one.batch for one in tried if one.fits), default=0)
        over = min((one.batch for one in tried if not one.fits), default=MOST + 1)
        expected = _expected(tried, hbm)
        if expected is None or expected >= over:
            expected = (fits + over) / 2 if over <= MOST else MOST
        batch = _rounded(expected, multiple)
        if fits == 0 and over > multiple:
            batch = max(batch, multiple)
        if batch <= fits:
            return fits
        tried.append(compiled(batch))
    return max((one.batch for one in tried if one.fits), default=None)


def _expected(tried: list[Compiled], hbm: float) -> float | None:
    """Images that fill the memory, by a line through the last two programs; by one alone, its temporaries grow.

    None where the last one was refused, and no word of what it would hold.
    """
    known = [one for one in tried if one.total is not None]
    last = tried[-1]
    if last.total is None:
        return None
    per_image = last.temporaries / last.batch
    if len(known) > 1:
        per_image = (last.total - known[-2].total) / (last.batch - known[-2].batch)
    return last.batch + (hbm - last.total) / per_image if per_image > 0 else 2 * last.batch


def _rounded(batch: float, multiple: int) -> int:
    """Down to a multiple, and of large batches to one in `NEAR` to twice as many."""
    times = int(max(batch, 0) // multiple)
    step = max(1, 2 ** times.bit_length() // 2 // NEAR)
    return times // step * step * multiple
