"""Nested dicts of arrays: merging, naming and counting leaves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.types import Params


def merge(*trees: Mapping[str, Any]) -> Params:
    """One tree holding the leaves of all; where two share a leaf the later one wins."""
    merged: Params = {}
    for tree in trees:
        for key, value in tree.items():
            if isinstance(value, Mapping):
                below = merged.get(key)
                merged[key] = merge(below if isinstance(below, Mapping) else {}, value)
            else:
                merged[key] = value
    return merged


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": x}}` becomes `{"a/b": x}`."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}/")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def unflatten(flat: Mapping[str, Any]) -> Params:
    """The inverse of `flatten` (an empty subtree does not survive the round trip)."""
    tree: Params = {}
    for path, value in flat.items():
        put(tree, path, value)
    return tree


def put(tree: Params, path: str, value: Any) -> None:
    """Sets what stands at `"a/b"`, with what lies above it where that is not there."""
    *above, leaf = path.split("/")
    for key in above:
        tree = tree.setdefault(key, {})
    tree[leaf] = value


def at_path(tree: Mapping[str, Any], path: str) -> Any:
    """What stands at `"a/b"`."""
    for key in path.split("/"):
        tree = tree[key]
    return tree


def path_string(path: tuple[Any, ...]) -> str:
    """A jax key path as `"a/b/0/c"`."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def map_named(fn: Callable[..., Any], tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` whose function also gets the leaf's path, as `path_string` writes it."""
    return jax.tree_util.tree_map_with_path(lambda path, *leaves: fn(path_string(path), *leaves), tree, *rest)


def fingerprint(tree: Mapping[str, Any]) -> str:
    """SHA-256 over names, shapes and values (as float32) of every leaf."""
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten(tree).items()):
        array = np.ascontiguousarray(leaf, np.float32)
        digest.update(f"{path}{array.shape}".encode())
        digest.update(array)
    return digest.hexdigest()


def not_finite(tree: Mapping[str, Any]) -> str | None:
    """The path of the first leaf that holds NaN or infinity, None where all are finite; also of a split state."""
    leaves = {path: leaf for path, leaf in flatten(tree).items() if jnp.issubdtype(leaf.dtype, jnp.inexact)}
    finite = map(_finite, leaves.values()) if all(map(_on_host, leaves.values())) else _all_finite([*leaves.values()])
    return next((path for path, sound in zip(leaves, finite, strict=True) if not sound), None)


def _on_host(leaf: Any) -> bool:
    """Whether numpy reads it where it is."""
    if not isinstance(leaf, jax.Array):
        return True
    return len(leaf.devices()) == 1 and next(iter(leaf.devices())).platform == "cpu" and leaf.is_fully_addressable


def _finite(leaf: Any) -> bool:
    return bool(np.isfinite(leaf).all())


@jax.jit
def _all_finite(leaves: list[Any]) -> list[Any]:
    """One program for all: one a leaf would be compiled for every shape."""
    return [jnp.isfinite(leaf).all() for leaf in leaves]


def count(tree: Any) -> int:
    """The number of scalars in a tree of arrays or shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
