"""Parameters out of a state dict that torch wrote: every leaf has a name there, and kernels have other axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import differences, told
from flexidit_jax.common.trees import flatten, unflatten
from flexidit_jax.common.types import Params

StateDict = Mapping[str, np.ndarray]


def shapes_of(model: nn.Module, *inputs: Any) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter by its path, without making one."""
    variables = jax.eval_shape(partial(model.init, jax.random.key(0)), *inputs)
    return {path: leaf.shape for path, leaf in flatten(variables["params"]).items()}


def read_named(
    state: StateDict, shapes: Mapping[str, tuple[int, ...]], name_of: Callable[[str], str], kind: str
) -> Params:
    """A state dict as the tree of a model, float32.

    Args:
      state: arrays by name, of any float type; all of them are the model's.
      shapes: from `shapes_of`. What is called `kernel` is [in, out] or [h, w, in, out] here and [out, in] or
        [out, in, h, w] there.
      name_of: path -> name.
      kind: of network, for the message.

    Raises:
      UserError: missing, extra or misshapen tensors; all are named.
    """
    check_named(named_shapes(shapes, name_of), state, kind)
    return unflatten({path: ours(path, state[name_of(path)].astype(np.float32)) for path in shapes})


def named_shapes(shapes: Mapping[str, tuple[int, ...]], name_of: Callable[[str], str]) -> dict[str, tuple[int, ...]]:
    """The shapes of a published state dict by name; see `read_named`."""
    return {name_of(path): _theirs(path, shape) for path, shape in shapes.items()}


def check_named(expected: Mapping[str, tuple[int, ...]], state: StateDict, kind: str) -> None:
    """Refuses a state dict of other names or shapes.

    Raises:
      UserError: all are named.
    """
    if problems := differences(expected, state):
        raise UserError(f"not a state dict of {kind}: {told(problems)}")


def ours(path: str, array: np.ndarray) -> np.ndarray:
    """A tensor with its axes in our order."""
    if not _is_kernel(path):
        return array
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T)


def _theirs(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if not _is_kernel(path):
        return shape
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _is_kernel(path: str) -> bool:
    return path.rpartition("/")[2] == "kernel"


def depth_of(state: StateDict, before: str) -> int:
    """How many blocks there are whose names begin with `before`, a number and a dot, counting from 0."""
    numbers = {name.removeprefix(before).partition(".")[0] for name in state if name.startswith(before)}
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)


def heads_of(width: int, said: int | None, given: int | None, where: str) -> int:
    """How many heads of attention there are, which no tensor tells; those of published networks are 64 wide.

    Args:
      said: by a config; None where it says nothing.
      given: as an argument.
      where: what the width is of, for the message.

    Raises:
      UserError: no divisor of the width; both say another number; or neither does, and the width is not published.
    """
    if None not in (said, given) and said != given:
        raise UserError(f"{where} has {said} heads, but num_heads={given!r}; leave that out")
    heads = given if said is None else said
    if heads is None and width in PUBLISHED_WIDTHS:
        return width // 64
    if heads is None:
        raise UserError(f"the number of heads is not in the tensors of {where}, {width} wide; pass num_heads=")
    if isinstance(heads, bool) or not isinstance(heads, int) or heads < 1 or width % heads:
        raise UserError(f"num_heads={heads!r} is not an integer that divides the width {width} of {where}")
    return heads


#: of published vision and text transformers with heads of 64
PUBLISHED_WIDTHS = (384, 512, 768, 1024, 1280)
