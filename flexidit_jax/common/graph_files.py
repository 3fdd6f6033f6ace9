"""The constants of a TensorFlow graph (a GraphDef, `.pb`), read off the wire format: no TensorFlow, and nothing runs.

Wire format: a message is fields; a field is a key (number << 3 | type) as a varint, then a varint (type 0), 8 bytes
(1), a length and so many bytes (2), or 4 bytes (5).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.torch_files import Unread

GRAPH_SUFFIX = ".pb"
#: numbers of fields: of GraphDef; of NodeDef; of an entry of its attributes; of AttrValue; of TensorProto and its shape
_NODE = 1
_NAME, _OP, _ATTRIBUTE = 1, 2, 5
_KEY, _VALUE = 1, 2
_TENSOR = 8
_TYPE, _SHAPE, _CONTENT, _FLOATS, _DIMENSION, _SIZE = 1, 2, 4, 5, 2, 1
_FLOAT32 = 1


def open_graph(path: Path) -> Unread:
    """The float32 constants of a graph by the names of their nodes; what is no such constant is left out.

    Raises:
      UserError: no whole graph, or one without such constants.
    """
    try:
        buffer = memoryview(path.read_bytes())
        nodes = [node for number, node in _fields(buffer) if number == _NODE and isinstance(node, memoryview)]
        tensors = {name: partial(_array, *told) for name, told in filter(None, map(_constant, nodes))}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, LookupError):
        raise UserError(f"{path} is not a readable graph of TensorFlow; is the download complete?") from None
    if not tensors:
        raise UserError(f"{path} is a graph of TensorFlow without constants in float32, and holds no weights")
    return tensors


def _constant(node: memoryview) -> tuple[str, tuple[tuple[int, ...], memoryview]] | None:
    """Name, shape and bytes of a node that is a float32 constant; else None."""
    fields = list(_fields(node))
    said = dict(fields)
    if said.get(_OP) != b"Const":
        return None
    attributes = [dict(_fields(entry)) for number, entry in fields if number == _ATTRIBUTE]
    [value] = [entry[_VALUE] for entry in attributes if entry[_KEY] == b"value"]
    tensor = list(_fields(dict(_fields(value))[_TENSOR]))
    of = dict(tensor)
    if of.get(_TYPE) != _FLOAT32:
        return None
    dimensions = [dict(_fields(entry)) for number, entry in _fields(of.get(_SHAPE, b"")) if number == _DIMENSION]
    shape = tuple(dimension.get(_SIZE, 0) for dimension in dimensions)
    floats = b"".join(content for number, content in tensor if number == _FLOATS)  # packed, or four bytes each
    return str(said[_NAME], "utf-8"), (shape, memoryview(of.get(_CONTENT, floats)))


def _array(shape: tuple[int, ...], content: memoryview) -> np.ndarray:
    values = np.frombuffer(content, "<f4").astype(np.float32, copy=False)
    return np.broadcast_to(values[0], shape) if len(values) == 1 else values.reshape(shape)  # one value fills all


def _fields(message: memoryview | bytes) -> Iterator[tuple[int, int | memoryview]]:
    """Number and content of every field.

    Raises:
      ValueError: it ends within a field, or holds what no message does.
    """
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            if at >= len(message) or shift > 63:
                raise ValueError("no whole number")
            byte, at = message[at], at + 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        number, kind = divmod(varint(), 8)
        if kind == 0:
            yield number, varint()
            continue
        length = {1: lambda: 8, 2: varint, 5: lambda: 4}.get(kind, lambda: len(message) + 1)()
        if at + length > len(message):
            raise ValueError("it ends within a field")
        yield number, memoryview(message)[at : at + length]
        at += length
