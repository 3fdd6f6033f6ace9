"""A condition as everybody but its conditioner sees it: a pytree of rows, with one flag a sample for "none".

    {"label": int32 [B], "null": bool [B]}
    {"tokens": float32 [B, M, k], "mask": bool [B, M], "null": bool [B]}

That a sample has no condition is data; what that means are parameters of the conditioner. So guidance and dropping flip
flags, and a kind of condition is one file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from flexidit_jax.common.arguments import finite_array
from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.common.types import Array
from flexidit_jax.models.attention.kept import Kept

Condition: TypeAlias = dict[str, Array]
NULL = "null"


class Context(NamedTuple):
    """What the network reads of a condition; None what a kind of condition does not have.

    No time enters it, so it can be made once, before the steps that read it: with keys and values of its tokens in
    their place, which no block then computes (`DiT.kept`).

    Attributes:
      vector: [B, d], added to the embedded time.
      tokens: [B, M, d].
      mask: bool [B, M], True where a token is one.
      kept: keys and values of the tokens, by block: a tuple of `Kept`, or one of [B, L, M, h, e].
      finite: bool [B, M], tokens whose keys and values are finite, those of others being zero; None without a mask.
    """

    vector: Array | None = None
    tokens: Array | None = None
    mask: Array | None = None
    kept: Kept | tuple[Kept, ...] | None = None
    finite: Array | None = None

    @property
    def read(self) -> bool:
        """Whether blocks read it by themselves."""
        return self.tokens is not None or self.kept is not None

    def of(self, block: Array | int) -> Array | Kept:
        """What a block reads."""
        if self.kept is None:
            return self.tokens
        if isinstance(self.kept, Kept):
            return Kept(*(jax.lax.dynamic_index_in_dim(part, block, 1, keepdims=False) for part in self.kept))
        return self.kept[block]


#: a condition, or what the network reads of it, made before
Given: TypeAlias = Condition | Context


def size(cond: Condition) -> int:
    """B."""
    return cond[NULL].shape[0]


def take(cond: Given, rows: Array) -> Given:
    """The samples `rows`, int [n]; one may be taken twice."""
    return jax.tree.map(lambda leaf: leaf[rows], cond)


def as_null(cond: Condition) -> Condition:
    """No condition, for as many samples."""
    return {**cond, NULL: cond[NULL] | True}


def dropped(cond: Condition, key: Array, rate: float) -> Condition:
    """Each sample's condition replaced by none with probability `rate`."""
    return {**cond, NULL: cond[NULL] | jax.random.bernoulli(key, rate, cond[NULL].shape)}


def chosen(which: Array, yes: Condition, no: Condition) -> Condition:
    """Sample by sample: `yes` where `which`, bool [B], is set, else `no`."""
    return jax.tree.map(lambda a, b: np.where(which.reshape(-1, *[1] * (a.ndim - 1)), a, b), yes, no)


def shapes(conditioner: Any, batch: int) -> Condition:
    """Shapes and dtypes of the condition of `batch` samples."""
    one = conditioner.parse([None])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype), one)


def nothing(conditioner: Any, batch: int) -> Condition:
    """The condition of `batch` samples that have none."""
    return take(conditioner.parse([None]), np.zeros(batch, int))


def of_records(conditioner: Any, records: Mapping[str, np.ndarray]) -> Condition:
    """The condition of a batch of records, arrays [B, ...] by key; what they may leave out is filled in."""
    fields = {field: records[field] for field in conditioner.fields if field in records}
    given = fields | {NULL: np.zeros(len(next(iter(fields.values()))), bool)}
    return conditioner.completed(given) if hasattr(conditioner, "completed") else given


def parsed(conditioner: Any, asked: Any) -> Condition:
    """What a user asks for as a condition: typed, as `conditioner.parse` reads it, or a condition already.

    Raises:
      UserError: what the conditioner does not read.
    """
    if not isinstance(asked, Mapping):
        asked = conditioner.parse(asked)
    wanted = shapes(conditioner, 1)
    for key in asked:
        if key not in wanted:
            raise UserError(f"the condition of this model has no {key!r}{nearest(str(key), wanted)}")
    first = _array(next(iter(asked.values()), ()))
    count = len(next(iter(asked.values()))) if first is None else len(np.atleast_1d(first))
    given = {key: _array(value) for key, value in {NULL: np.zeros(count, bool), **asked}.items()}
    if hasattr(conditioner, "completed"):
        given = conditioner.completed(given)
    for key, like in wanted.items():
        if key not in given:
            raise UserError(f"the condition lacks {key!r}; it wants {', '.join(conditioner.fields)}")
        array = given[key]
        if like.dtype == bool and array is not None and array.dtype.kind in "iu" and np.isin(array, (0, 1)).all():
            array = array.astype(bool)
        given[key] = array
        any_length = array is not None and array.ndim > 1 and key in getattr(conditioner, "free", ())
        shape = (count, *(array if any_length else like).shape[1:2], *like.shape[2:])
        if array is None or not count or array.shape != shape or not np.can_cast(array.dtype, like.dtype, "same_kind"):
            text = f"{like.dtype} {[count or 'B', *like.shape[1:]]}".replace("'", "")
            found = "rows of other lengths" if array is None else f"{array.dtype} {list(array.shape)}"
            raise UserError(f"{key} of the condition must be {text}, got {found}")
        if array.dtype.kind != "b":
            finite_array(array, f"{key} of the condition")
        low, high = conditioner.limits.get(key, (None, None))
        if low is not None and not (low <= array.min() and array.max() <= high):
            raise UserError(f"{key} of the condition must lie in {low}..{high}, got {array.min()}..{array.max()}")
    return {key: given[key].astype(like.dtype) for key, like in wanted.items()}


def _array(value: Any) -> np.ndarray | None:
    """None where it is none, its rows being of several lengths."""
    try:
        return np.asarray(value)
    except ValueError:
        return None


def negatives(conditioner: Any, negative: Any, count: int) -> Condition | None:
    """What guidance leads away from, instead of from no condition.

    Args:
      negative: None; one for all samples, as typed; or a list, one a sample, of which None is no condition.
      count: samples.

    Returns:
      The condition of `count` samples; None for None.

    Raises:
      UserError: what the conditioner does not read, or another number of them.
    """
    if negative is None:
        return None
    several = isinstance(negative, (Mapping, Sequence)) or np.ndim(negative) > 0
    several = several and not isinstance(negative, str)
    try:
        cond = parsed(conditioner, negative if several else [negative])
    except UserError as error:
        raise UserError(f"negative: {error}") from None
    if size(cond) not in (1, count):
        each = f" or one for each of {count}" if count > 1 else ""
        raise UserError(f"negative must be one for all samples{each}, got {size(cond)}")
    return take(cond, np.zeros(count, int)) if size(cond) == 1 else cond


def check_null(conditioner: Any, null: np.ndarray) -> None:
    """Refuses samples without a condition, bool [B], where nothing stands for that.

    Raises:
      UserError: saying what would do.
    """
    if hasattr(conditioner, "completed"):
        conditioner.completed({NULL: null})


def guides(cond: Condition, negative: Condition | None, own: Sequence[str] = ()) -> tuple[Condition, Condition]:
    """The guide's condition where a mode guides itself, and where a weaker mode guides it.

    That is the negative one where there is one; else none, and the sample's own (FlexiDiT section 3.4).

    Args:
      own: keys that are the sample's own whatever guides it.
    """
    if negative is None:
        return as_null(cond), cond
    if own:
        negative = {**negative, **{key: cond[key] for key in own}}
    return negative, chosen(negative[NULL], cond, negative)
