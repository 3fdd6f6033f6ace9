"""What a caller hands in, read: numbers of numpy and jax are numbers, 10.0 is a whole one, NaN is none.

Every refusal is one line that names the argument, however long what was handed in is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from inspect import Parameter
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.errors import UserError

PLAIN = {"int": int, "float": (int, float), "str": str, "bool": bool, "None": type(None), "Section": Mapping}


def typed(value: Any, annotation: str, what: str) -> Any:
    """A value as an annotation made of plain types has it; of others only None is judged.

    Args:
      value: a number may be one of numpy or jax, also an array without axes; a float that is whole is an int where
        an int is asked for.
      annotation: such as "int | None".
      what: the argument, for the message.

    Raises:
      UserError: the annotation rules it out.
    """
    value, parts = single(value), annotation.split(" | ")
    if set(parts) <= PLAIN.keys():
        if "int" in parts and isinstance(value, float) and value.is_integer():
            value = int(value)
        if "int" in parts and isinstance(value, int) and abs(value) >= 2**63:
            raise UserError(f"{what} must lie within 64 bits, got {shown(value)}")
        fits = any(isinstance(value, PLAIN[part]) and (part == "bool") == isinstance(value, bool) for part in parts)
    else:
        fits = value is not None or "None" in parts or annotation in ("Any", "object", str(Parameter.empty))
    if not fits:
        words = annotation.replace(" | ", " or ").replace("Section", "a section")
        raise UserError(f"{what} must be {words}, got {shown(value)}")
    return value


def single(value: Any) -> Any:
    """A number or word of numpy or jax as one of Python; whatever else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def finite_array(value: Any, name: str) -> jax.Array | np.ndarray:
    """An array of finite real numbers; one that is being traced is not looked into.

    Raises:
      UserError: no such array; the first number that is none is named with its place.
    """
    if isinstance(value, jax.core.Tracer):
        return value
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # rows of other lengths
        raise UserError(f"{name} must be an array of numbers, got {shown(value)}") from None
    if array.dtype.kind not in "iu" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise UserError(f"{name} must be an array of numbers, got {shown(value)}")
    if not holds(array):
        place = np.argwhere(~np.isfinite(_single_precision(array)))[0].tolist()
        raise UserError(f"{name} must be finite, got {array[tuple(place)]} at {place}")
    return value if isinstance(value, jax.Array) else array


def holds(numbers: Any) -> bool:
    """Whether float32, which every program computes in, holds all of them as finite numbers."""
    return bool(np.isfinite(_single_precision(numbers)).all())


def path_of(value: Any, name: str) -> Path:
    """A path, there or not.

    Raises:
      UserError: what no file system takes for one.
    """
    try:
        text, path = os.fspath(value), Path(value)
        path.exists()
    except TypeError:
        text = ""
    except OSError as error:
        raise UserError(f"{name} {shown(value)} cannot be looked at ({error.strerror})") from None
    if not text or "\0" in text:  # "" would be the folder one is in
        raise UserError(f"{name} must be a path, got {shown(value)}")
    return path


def shown(value: Any) -> str:
    """What a message says of a value: one line, of an array its type and shape."""
    if getattr(value, "ndim", 0):
        return f"{value.dtype} {list(value.shape)}"
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # an integer of thousands of digits
        text = f"an integer of {value.bit_length()} bits"
    return text if len(text) <= 100 else f"{text[:97]}..."


def _single_precision(numbers: Any) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.asarray(numbers).astype(np.float32, copy=False)
