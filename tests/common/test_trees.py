"""Nested dicts of arrays."""

from __future__ import annotations

import copy

import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.common import trees
from flexidit_jax.common.compilations import Compilations
from flexidit_jax.common.trees import count, flatten, map_named, merge, not_finite, path_string, unflatten


def test_merge_lays_later_trees_over_earlier_ones() -> None:
    below = {"a": {"x": 1, "y": 2}, "b": 3}
    above = {"a": {"y": 20, "z": {"w": 5}}, "c": 4}
    kept = copy.deepcopy(below)
    assert merge(below, above) == {"a": {"x": 1, "y": 20, "z": {"w": 5}}, "b": 3, "c": 4}
    assert merge(above, below)["a"] == {"x": 1, "y": 2, "z": {"w": 5}}
    assert below == kept  # inputs are not written to


def test_merge_of_a_leaf_and_a_tree() -> None:
    assert merge({"a": 1}, {"a": {"b": 2}}) == {"a": {"b": 2}}
    assert merge({"a": {"b": 2}}, {"a": 1}) == {"a": 1}


def test_merge_copies_the_nodes() -> None:
    tree = {"a": {"b": 1}}
    merged = merge(tree)
    merged["a"]["b"] = 2
    assert tree == {"a": {"b": 1}}


def test_flatten_and_back() -> None:
    tree = {"a": {"b": {"c": 1}, "d": 2}, "e": 3}
    assert flatten(tree) == {"a/b/c": 1, "a/d": 2, "e": 3}
    assert unflatten(flatten(tree)) == tree


def test_map_named() -> None:
    tree = {"a": [1, {"b": 2}], "c": 3}
    doubled = map_named(lambda name, x, y: (name, x + y), tree, tree)
    assert doubled == {"a": [("a/0", 2), {"b": ("a/1/b", 4)}], "c": ("c", 6)}
    assert path_string(()) == ""


def test_count() -> None:
    assert count({"a": np.zeros((2, 3)), "b": [jnp.zeros(4), np.float32(1)]}) == 11
    assert count({}) == 0


@pytest.mark.parametrize("on_host", [True, False])
def test_what_is_not_finite_is_named_by_one_program_at_most(monkeypatch: pytest.MonkeyPatch, on_host: bool) -> None:
    if not on_host:  # as on an accelerator
        monkeypatch.setattr(trees, "_on_host", lambda leaf: False)
    sound = {"a": {f"{n}": jnp.ones((n, 3)) for n in range(5, 11)}, "b": np.arange(3), "c": np.ones(3, np.float16)}
    bent = {**sound, "c": np.array([1, np.inf], np.float16), "d": jnp.array([jnp.nan])}
    worse = {**bent, "a": {**sound["a"], "7": jnp.full((7, 3), -jnp.inf, jnp.bfloat16)}}
    with Compilations() as compiled:
        assert not_finite(sound) is None
    assert compiled.count == (0 if on_host else 1)
    assert not_finite(bent) == "c"
    assert not_finite(worse) == "a/7"
    assert not_finite({"d": jnp.ones(2), "e": np.array([1, 2])}) is None
