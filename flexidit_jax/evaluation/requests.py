"""What images are asked for: the class of a generated one from its number alone, classes equally often."""

from __future__ import annotations

import jax
import numpy as np

from flexidit_jax.common.errors import UserError, nearest

KINDS = ("uniform", "balanced")
#: apart from the draws of noise, which count from 0 (see `sampling.noise`)
DRAW = 2**32 - 1


def check_kind(kind: str) -> None:
    """Refuses what `labels_of` does not know.

    Raises:
      UserError: naming the nearest.
    """
    if kind not in KINDS:
        raise UserError(f"no generate.labels {kind!r}{nearest(kind, KINDS)}")


def labels_of(kind: str, seed: int, numbers: np.ndarray, classes: int) -> np.ndarray:
    """The classes of the images numbered `numbers` [N], int32 [N].

    Args:
      kind: "uniform" draws every class with the same probability from (seed, number), as published FIDs of
        class-conditional models do; "balanced" takes 0, 1, ..., 0, 1, ..., every class equally often.

    Raises:
      UserError: a seed outside 0..2^32-1.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"seed must lie in 0..2^32-1, got {seed!r}")
    if kind == "balanced":
        return (numbers % classes).astype(np.int32)
    root = jax.random.key(np.uint32(seed))

    @jax.jit
    @jax.vmap
    def one(number: jax.Array) -> jax.Array:
        return jax.random.randint(jax.random.fold_in(jax.random.fold_in(root, number), DRAW), (), 0, classes)

    return np.asarray(one(numbers.astype(np.uint32)), np.int32)


def balanced_labels(n: int, classes: int) -> np.ndarray:
    """n labels with every class equally often (to within one): 0, 1, ..., 0, 1, ..."""
    return np.arange(n) % classes
