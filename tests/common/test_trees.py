"""Nested dicts of arrays."""

from __future__ import annotations

import copy

import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.trees import count, flatten, map_named, merge, path_string, unflatten


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
