"""Squared distances between sets of features, a tile at a time: what precision, recall, density and coverage read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics.moments import check_finite

#: rows and columns of a tile: 80 MB in float32
ROWS, COLUMNS = 2000, 10_000
KINDS = ("float32", "float64", "float16")


def tiles(a: np.ndarray, b: np.ndarray, kind: str = "float32") -> Iterator[tuple[slice, slice, np.ndarray]]:
    """Squared distances of every row of a [N, D] to every row of b [M, D].

    Args:
      kind: what they are computed in. "float16" is that of ADM's evaluator, for comparison with its numbers: operands,
        squared norms and products are each rounded to float16, products summed in float32; a tile in which that is not
        finite is in float32.

    Yields:
      Rows of a, rows of b, and the tile; all rows of b before the next rows of a.

    Raises:
      UserError: no such kind, rows of different lengths, or features that are not finite.
    """
    check_kind(kind)
    if a.shape[1] != b.shape[1]:
        raise UserError(f"features of {a.shape[1]} and of {b.shape[1]} numbers have no distance")
    for rows in cut(len(a), ROWS):
        left = np.asarray(a[rows])
        check_finite(left, rows.start)
        for columns in cut(len(b), COLUMNS):
            right = np.asarray(b[columns])
            if rows.start == 0:
                check_finite(right, columns.start)
            yield rows, columns, _tile(left, right, kind)


def radii(features: np.ndarray, k: int, kind: str = "float32") -> np.ndarray:
    """The squared distance [N] of every row to its k-th nearest other row of the set.

    Raises:
      UserError: k or fewer rows; and see `tiles`.
    """
    check_enough(len(features), k)
    found = np.empty(len(features))
    nearest = np.empty((0, 0))
    for rows, columns, tile in tiles(features, features, kind):
        if columns.start == 0:
            nearest = np.empty((len(tile), 0), tile.dtype)
        nearest = np.concatenate([nearest, _smallest(tile, k + 1)], 1)  # a row is its own neighbour number 0
        if columns.stop == len(features):
            found[rows] = np.partition(nearest, k, 1)[:, k]
    return found


def check_kind(kind: str) -> None:
    """Refuses what distances are not computed in.

    Raises:
      UserError: naming what they are.
    """
    if kind not in KINDS:
        raise UserError(f"distance must be {', '.join(KINDS[:-1])} or {KINDS[-1]}, got {kind!r}")


def check_enough(count: int, k: int) -> None:
    """Refuses a set of images in which some have no k-th neighbour, or no k.

    Raises:
      UserError: with how many would do.
    """
    if k < 1:
        raise UserError(f"balls reach to neighbour 1 or a later one, got {k}")
    if count <= k:
        raise UserError(f"{count} images are too few for balls that reach to neighbour {k}; {k + 1} would do")


def cut(count: int, size: int) -> list[slice]:
    """0 .. count in slices of `size`."""
    return [slice(begin, min(begin + size, count)) for begin in range(0, count, size)]


def _smallest(tile: np.ndarray, count: int) -> np.ndarray:
    """The smallest numbers of every row, in any order; all where there are no more."""
    return tile if tile.shape[1] <= count else np.partition(tile, count - 1, 1)[:, :count]


def _tile(a: np.ndarray, b: np.ndarray, kind: str) -> np.ndarray:
    if kind == "float16":
        with np.errstate(over="ignore", invalid="ignore"):
            tile = _half(a, b)
        if np.isfinite(tile).all():
            return tile
        kind = "float32"
    a, b = a.astype(kind), b.astype(kind)
    tile = a @ b.T
    tile *= -2
    tile += (a**2).sum(1)[:, None]
    tile += (b**2).sum(1)
    return np.maximum(tile, 0, out=tile)


def _half(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (x.astype(np.float16).astype(np.float32) for x in (a, b))
    norms = [(x**2).sum(1).astype(np.float16) for x in (a, b)]
    products = (a @ b.T).astype(np.float16)
    return np.maximum((norms[0][:, None] - np.float16(2) * products) + norms[1], np.float16(0))
