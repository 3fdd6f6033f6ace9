"""A batch in parts, one after the other: memory falls with their number, the gradient is their mean."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from flexidit_jax.common.axes import laid
from flexidit_jax.common.types import Array, Params

Objective = Callable[..., tuple[Array, Any]]


def micro_batches(tree: Any, parts: int) -> Any:
    """Leaves [B, ...] -> [parts, B / parts, ...]; part j holds the records j, j + parts, j + 2 parts, ...

    A batch split over devices lies on them in stretches, so that every part takes its share of each stretch and no
    record moves.
    """

    def split(leaf: Array) -> Array:
        return laid(jnp.swapaxes(leaf.reshape(-1, parts, *leaf.shape[1:]), 0, 1), None, "records")

    return jax.tree.map(split, tree)


def accumulated(
    objective: Objective, params: Params, parts: tuple[Any, ...], place: Callable[[Params], Params]
) -> tuple[Params, Any]:
    """The gradient of the mean over all parts, and what `objective` says of every record.

    Args:
      objective: (params, *part) -> (mean over the part's records, a tree of [B / k, ...] by record).
      params: differentiated.
      parts: from `micro_batches`, leaves [k, B / k, ...].
      place: keeps a tree of gradients where the parameters are.

    Returns:
      The gradient in float32, and the tree of records, leaves [k, B / k, ...] or, of one part, [B, ...].
    """

    def one(part: tuple[Any, ...]) -> tuple[Params, Any]:
        gradients, records = jax.grad(objective, has_aux=True)(params, *part)
        return place(gradients), records

    count = len(jax.tree.leaves(parts)[0])
    if count == 1:  # a loop of one would add zeros
        return one(jax.tree.map(lambda leaf: leaf[0], parts))

    def add(total: Params, part: tuple[Any, ...]) -> tuple[Params, Any]:
        gradients, records = one(part)
        return jax.tree.map(lambda sum_, leaf: sum_ + leaf / count, total, gradients), records

    zeros = place(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params))
    return jax.lax.scan(add, zeros, parts)


def quartiles(values: Array, share: Array) -> dict[str, Array]:
    """Sums by quarter of the way from data to noise.

    Args:
      values, share: by record, of one shape: its loss, and how much of the way its time is, in [0, 1].

    Returns:
      `quartile_sums` and `quartile_counts`, [4] float32, low noise first.
    """
    member = jax.nn.one_hot(jnp.clip((4 * share).astype(int), 0, 3), 4)  # [..., 4]
    records = tuple(range(share.ndim))  # not flattened: that would gather records that lie on several devices
    return {"quartile_sums": (values[..., None] * member).sum(records), "quartile_counts": member.sum(records)}
