"""Config files and `--config.key=value` overrides, checked before anything heavy is imported."""

from __future__ import annotations

import ast
import json
import runpy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ml_collections import ConfigDict

from flexidit_jax.common.errors import UserError, closest, nearest


def load_config(spec: str) -> ConfigDict:
    """Runs `get_config()` of a file, or `get_config("variant")` for `path.py:variant`.

    Raises:
      UserError: no such file (the nearest is named), no `get_config`, or a variant it does not know.
    """
    path_text, colon, variant = spec.partition(":")
    path = Path(path_text)
    if colon and not variant:
        raise UserError(f"config {spec} names no variant; leave the colon out, or write one such as {path}:smoke")
    if not path.is_file():
        raise UserError(f"config file {path} does not exist{_hint(path, colon + variant)}")
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        if get_config is None:
            raise UserError(f"config file {path} has no get_config() function")
        config = get_config(variant) if variant else get_config()
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a config is a program; it can fail in any way
        reason = " ".join(str(error).split())
        raise UserError(f"config file {spec} does not run ({type(error).__name__}: {reason})") from error
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config() of {spec} must return a ConfigDict, got {type(config).__name__}")
    return config


def _hint(path: Path, variant: str) -> str:
    """The config that a path was meant for, by its name: one beside it, or in `configs`."""
    files = [file for folder in {path.parent: 1, Path("configs"): 2} for file in sorted(folder.glob("*.py"))]
    there = [file for file in files if file.is_file() and "get_config" in file.read_text(errors="ignore")]
    stems = {file.stem: f"{file}{variant}" for file in reversed(there)}
    if close := closest(path.stem, stems):
        return f"; did you mean {stems[close[0]]!r}?"
    return nearest(str(path), map(str, there))


def override(config: ConfigDict, path: str, text: str) -> None:
    """Sets `path` (such as `train.stages[0].steps`) to what `text` spells, keeping the key's type.

    A key that its section does not show is set too: whoever reads the section knows all of its keys, and names the
    nearest of a misspelt one.

    Raises:
      UserError: a section the config does not have (the nearest key is named), or a value of another type.
    """
    known = dict(leaves(config))
    if _literal(text) is None and any(key.startswith(f"{path}.") for key in known):
        known[path] = None  # a whole section, left out
    if within := [key for key in known if key.startswith((f"{path}.", f"{path}[")) and path not in known]:
        raise UserError(f"config key {path!r} is a section, got {text!r}; set its keys, such as {within[0]}")
    if path not in known and not _could_be_a_key(path, known):
        raise UserError(f"unknown config key {path!r}{nearest(path, known)}")
    *above, last = path.replace("[", ".").replace("]", "").split(".")
    node: Any = config
    for key in above:
        node = node[int(key)] if isinstance(node, (list, tuple)) else node[key]
    value = _as_type_of(known.get(path), text, path)
    if isinstance(node, ConfigDict):
        with node.ignore_type():
            node[last] = value
    else:
        node[last] = value


def _could_be_a_key(path: str, known: Iterable[str]) -> bool:
    """Whether there is the section that a key would stand in."""
    section, dot, key = path.rpartition(".")
    return bool(dot) and key.isidentifier() and any(other.startswith(f"{section}.") for other in known)


def leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every key of a config with its value; items of a sequence of sections as `key[0].name`."""
    if isinstance(node, (Mapping, ConfigDict)):
        for key, value in node.items():
            yield from leaves(value, f"{prefix}.{key}" if prefix else key)
    elif isinstance(node, (list, tuple)) and node and isinstance(node[0], (Mapping, ConfigDict)):
        for i, value in enumerate(node):
            yield from leaves(value, f"{prefix}[{i}]")
    else:
        yield prefix, node


def plain(config: ConfigDict) -> dict[str, Any]:
    """A config as it comes back from JSON: dicts, lists, numbers and strings."""
    return json.loads(config.to_json_best_effort())


#: where a key that is left out means None
NO_DEFAULTS: Mapping[str, Any] = MappingProxyType({})


def difference(
    ours: Mapping[str, Any], theirs: Mapping[str, Any], defaults: Mapping[str, Any] = NO_DEFAULTS
) -> tuple[str, Any, Any] | None:
    """The first key on which two configs differ, with both values; None when they agree.

    Args:
      defaults: what a key means that one of them leaves out (see `build.defaults_noted`), else None. A config that was
        recorded before there was a key says what the key's default does.
    """
    here, there = dict(leaves(ours)), dict(leaves(theirs))
    for key in [*here, *there]:
        default = defaults.get(key)
        mine, other = (_as_json(said.get(key, default)) for said in (here, there))
        if mine != other:
            return key, mine, other
    return None


def _as_json(value: Any) -> Any:
    return [_as_json(item) for item in value] if isinstance(value, (tuple, list)) else value


def _as_type_of(current: Any, text: str, path: str) -> Any:
    value = _literal(text)
    if current is None or value is None or type(value) is type(current):
        return value
    if isinstance(current, float) and type(value) is int:
        return float(value)
    if isinstance(current, float) and isinstance(value, str) and ":" in value:  # a number by stretches of steps
        return value
    if isinstance(current, (list, tuple)) and isinstance(value, str):  # words, such as labels by name
        return tuple(_literal(word.strip()) for word in text.split(","))
    if isinstance(current, (list, tuple)) and not isinstance(value, Mapping):
        return tuple(value) if isinstance(value, (list, tuple)) else (value,)
    if isinstance(current, str):  # a part may be given by name, or by name and keywords
        return value if isinstance(value, Mapping) and "name" in value else text
    raise UserError(f"config key {path!r} must be of type {type(current).__name__}, got {text!r}")


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)
