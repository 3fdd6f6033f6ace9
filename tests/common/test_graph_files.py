"""Constants of a TensorFlow graph, off bytes written here by the wire format.

TensorFlow's own are read in tests/test_oracles_features.py.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import read_safetensors as read


def varint(value: int) -> bytes:
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def node(name: str, shape: tuple[int, ...], values: bytes, kind: int = 1, op: bytes = b"Const") -> bytes:
    """A constant; `values` are fields of its tensor."""
    dimensions = b"".join(field(2, field(1, size)) for size in shape)
    tensor = field(1, kind) + field(2, dimensions) + values
    kinds = field(5, field(1, b"dtype") + field(2, field(6, kind)))
    value = field(5, field(1, b"value") + field(2, field(8, tensor)))
    return field(1, field(1, name.encode()) + field(2, op) + field(3, b"input") + kinds + value)


def floats(*values: float) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


A = np.arange(200, dtype=np.float32).reshape(2, 100)
GRAPH = b"".join(
    [
        node("mixed/conv/conv2d_params", A.shape, field(4, A.tobytes())),
        node("packed", (3,), field(5, floats(1, 2, 3))),
        node("apart", (2,), b"".join(varint(5 << 3 | 5) + floats(value) for value in (4, 5))),
        node("filled", (2, 2), field(5, floats(7))),
        node("single", (), field(5, floats(8))),
        node("whole", (2,), field(4, bytes(8)), kind=3),
        node("computed", (2,), field(4, bytes(8)), op=b"Placeholder"),
        field(4, field(1, 27)),  # the versions of the graph
    ]
)


def test_constants_in_float32(tmp_path: Path) -> None:
    file = tmp_path / "graph.pb"
    file.write_bytes(GRAPH)
    tensors, metadata = read(file)
    there = {"packed": [1, 2, 3], "apart": [4, 5], "filled": [[7, 7], [7, 7]], "single": 8}
    there["mixed/conv/conv2d_params"] = A
    assert tensors.keys() == there.keys()
    assert metadata == {}
    for name, array in there.items():
        np.testing.assert_array_equal(tensors[name], np.asarray(array, np.float32), strict=True)


@pytest.mark.parametrize("cut", [3, 40, len(GRAPH) - 1])
def test_a_truncated_graph_is_refused(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "graph.pb"
    file.write_bytes(GRAPH[:cut])
    with pytest.raises(UserError) as caught:
        read(file)
    assert str(caught.value) == f"{file} is not a readable graph of TensorFlow; is the download complete?"


@pytest.mark.parametrize("content", [b"\xff" * 20, bytes(range(64)), b"\x0b" * 9])
def test_bytes_that_are_no_graph_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "graph.pb"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"is not a readable graph of TensorFlow; is the download complete\?$"):
        read(file)


def test_a_graph_without_weights_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "graph.pb"
    for content in (b"", node("whole", (2,), field(4, bytes(8)), kind=3)):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"is a graph of TensorFlow without constants in float32"):
            read(file)


def test_a_tensor_of_another_size_than_it_says(tmp_path: Path) -> None:
    file = tmp_path / "graph.pb"
    file.write_bytes(node("a", (3,), field(4, floats(1, 2))))
    with pytest.raises(UserError, match=r"^a of .*graph\.pb cannot be read \(cannot reshape array"):
        read(file)
