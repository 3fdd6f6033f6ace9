"""Files of named tensors and the `config.json` beside them; nothing that a file holds is run."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save_file

from flexidit_jax.common.errors import UserError, first_line
from flexidit_jax.common.files import written_aside
from flexidit_jax.common.graph_files import GRAPH_SUFFIX, open_graph
from flexidit_jax.common.torch_files import TORCH_SUFFIXES, Unread, open_torch
from flexidit_jax.common.trees import not_finite

#: endings of weight files
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
#: of safetensors, what numpy has no name for
_EIGHT_BITS = {
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F8_E8M0": ml_dtypes.float8_e8m0fnu,
}


class Tensors(Mapping[str, np.ndarray]):
    """Arrays by name, each read when it is asked for, every time anew: who copies them one by one holds them once."""

    def __init__(self, unread: Unread) -> None:
        self._unread = unread

    def __getitem__(self, name: str) -> np.ndarray:
        return self._unread[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._unread

    def __iter__(self) -> Iterator[str]:
        return iter(self._unread)

    def __len__(self) -> int:
        return len(self._unread)


def open_tensors(path: Path) -> tuple[Unread, dict[str, str]]:
    """A file of tensors as its content says, whatever its ending: safetensors, what torch saved, a TensorFlow graph.

    Returns:
      Tensors by name, unread, and the metadata. Mappings within mappings are names joined by dots; what is no tensor is
      left out. Arrays are in the type they are stored in, of torch float32.

    Raises:
      UserError: neither, such as a git-lfs pointer or a web page; unreadable, truncated, or it would run code.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    if start[8:9] == b"{":
        return _open_safetensors(path)
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{path} is a git-lfs pointer, not the file it points to; fetch that with: git lfs pull")
    if start.lstrip()[:1] == b"<":
        raise UserError(f"{path} is a web page, such as a refused download leaves; download the file itself again")
    if start[:2] == b"PK" or start[:1] == b"\x80" or path.suffix in TORCH_SUFFIXES:
        return open_torch(path, zipped=start[:2] == b"PK"), {}
    if path.suffix == GRAPH_SUFFIX:
        return open_graph(path), {}
    if path.suffix == ".safetensors":
        return _open_safetensors(path)  # which says what is wrong with it
    raise UserError(f"{path} is no weight file; a .safetensors file would do, or one that torch saved")


def read_tensors(names: Iterable[str], tensors: Unread, where: Path) -> dict[str, np.ndarray]:
    """Those of `names`, read.

    Raises:
      UserError: a type that there is no array of, or a value that is not finite; the tensor is named.
    """
    read = {}
    for name in names:
        try:
            read[name] = tensors[name]()
        except (
            SafetensorError,
            OSError,
            ArithmeticError,
            AttributeError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            raise UserError(f"{name} of {where} cannot be read ({first_line(error)})") from None
    check_finite(read, where)
    return read


def check_finite(tensors: Mapping[str, Any], where: Path) -> None:
    """Refuses weights that no training should have left.

    Args:
      tensors: arrays by name, or a tree of them.

    Raises:
      UserError: NaN or infinity; the first such leaf is named.
    """
    if (name := not_finite(tensors)) is not None:
        raise UserError(f"{name} of {where} holds NaN or infinity; take weights from before that happened")


def read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors by name, in the type they are stored in, and the file's metadata.

    Raises:
      UserError: see `open_tensors` and `read_tensors`.
    """
    tensors, metadata = open_tensors(path)
    return read_tensors(tensors, tensors, path), metadata


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Tensors by name, and metadata; whole or not at all."""
    with written_aside(path) as unfinished:
        save_tensors(unfinished, tensors, metadata)


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """The same, as it goes."""
    save_file({key: np.asarray(value, order="C") for key, value in tensors.items()}, path, metadata)


def config_beside(path: Path) -> dict[str, Any]:
    """The `config.json` beside a weight file; empty when there is none, or when it is not an object.

    Raises:
      UserError: it is not JSON.
    """
    beside = path.parent / "config.json"
    return json_object(beside) if beside.is_file() else {}


def config_of(path: Path, metadata: Mapping[str, str]) -> dict[str, Any]:
    """The config that a weight file's metadata hold, else that of `config_beside`.

    Raises:
      UserError: it is not JSON.
    """
    if not (said := metadata.get("config")):
        return config_beside(path)
    try:
        config = json.loads(said)
    except ValueError:
        raise UserError(f"the metadata of {path} hold a config that is no JSON") from None
    return config if isinstance(config, dict) else {}


def json_object(file: Path) -> dict[str, Any]:
    """What a JSON file holds; empty when that is not an object.

    Raises:
      UserError: it cannot be read, or is not JSON.
    """
    try:
        return json_text(file.read_text(), str(file))
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not valid JSON ({error})") from None


def json_text(text: str, where: str) -> dict[str, Any]:
    """What a JSON text holds; empty when that is not an object.

    Raises:
      UserError: it is not JSON.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where} is not valid JSON ({error})") from None
    return content if isinstance(content, dict) else {}


def told(problems: Sequence[str], most: int = 8) -> str:
    """The first few of many problems, in one line."""
    more = f"; and {len(problems) - most:,} more" if len(problems) > most else ""
    return "; ".join(problems[:most]) + more


def differences(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, np.ndarray]) -> list[str]:
    """Every missing, unexpected and misshapen name, in words; empty when all is well."""
    return misnamed(expected, found) + [
        f"{name} is {list(found[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]


def misaxed(expected: Mapping[str, int], found: Mapping[str, np.ndarray]) -> list[str]:
    """Every name that is missing, and every tensor of another number of axes, in words; empty when there is none."""
    return [f"missing {name}" for name in expected if name not in found] + [
        f"{name} has {found[name].ndim} axes instead of {axes}"
        for name, axes in expected.items()
        if name in found and found[name].ndim != axes
    ]


def misnamed(expected: Collection[str], found: Collection[str]) -> list[str]:
    """Every missing and unexpected name, in words; empty when there is none."""
    missing = [f"missing {name}" for name in expected if name not in found]
    return missing + [f"unexpected {name}" for name in found if name not in expected]


def _open_safetensors(path: Path) -> tuple[Unread, dict[str, str]]:
    try:
        file = safe_open(path, framework="numpy")
        kinds = {name: file.get_slice(name).get_dtype() for name in list(file.keys())}
        whole = cache(lambda: dict(deserialize(path.read_bytes())))
        tensors = {
            name: partial(_eight_bits, whole, name) if kind in _EIGHT_BITS else partial(file.get_tensor, name)
            for name, kind in kinds.items()
        }
        return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path} is not a readable safetensors file ({error}); is the download complete?") from None


def _eight_bits(whole: Callable[[], dict[str, Any]], name: str) -> np.ndarray:
    raw = whole()[name]
    return np.frombuffer(raw["data"], _EIGHT_BITS[raw["dtype"]]).reshape(raw["shape"])
