"""A LoRA by the names of its layers <-> adapters of a mode, or the pre-trained layers that it changes.

It holds A [r, in] and B [out, r] of every layer, which becomes `W + s B A` with s = alpha / r. Query, key and value are
separate linears: those of a mode share their A. What else is a mode's own (embedding, de-embedding, norms) no LoRA can
hold: a file beside it does, without which it is of the pre-trained mode, into which it is merged.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import read_safetensors, told
from flexidit_jax.common.trees import fingerprint, flatten, unflatten
from flexidit_jax.common.types import Params, Patch, as_patch, patch_name, short_patch_name
from flexidit_jax.convert.lora_names import Layers, layers_of, places, spellings
from flexidit_jax.models.adapters import rank_of

#: r and alpha, None where no file tells it -> s
Scale = Callable[[int, float | None], np.float32]
_WORDS = r"(?:base_model\.model\.|transformer\.|diffusion_model\.|lora_unet_)*"
_TENSOR = re.compile(rf"{_WORDS}(.+)\.lora_(A|B|down|up)(?:\.default)?\.weight")
_ALPHA = re.compile(rf"{_WORDS}(.+)\.alpha")
_LETTERS = {"down": "A", "up": "B"}


class Pair(NamedTuple):
    """A and B of a layer, float32, and alpha where the file holds it."""

    a: np.ndarray
    b: np.ndarray
    alpha: float | None


class Lora(NamedTuple):
    """A mode's adapters.

    Attributes:
      rank: r; alpha is as much.
      layers: the kind of the transformer.
      pairs: A and B by the names of layers.
      own: what else is the mode's.
      words: the mode, and the fingerprint of the model that it is of.
    """

    rank: int
    layers: Layers
    pairs: dict[str, tuple[np.ndarray, np.ndarray]]
    own: dict[str, np.ndarray]
    words: dict[str, str]


def lora_of(params: Params, patch: Patch) -> Lora:
    """The adapters of a mode of a stored tree (`models.flexify`).

    Raises:
      UserError: it has none.
    """
    own = params["modes"][patch_name(patch)]
    if (rank := rank_of(own)) is None:
        raise UserError(f"mode {short_patch_name(patch)} has no adapters; export it without adapters_only")
    leaves, layers = flatten(own), layers_of(flatten(params["trunk"]))
    pairs = {}
    for name, (path, part, parts) in layers.adapted.items():
        a, b = (np.asarray(leaves[f"blocks/{path}/{leaf}"], np.float32) for leaf in ("lora_a", "lora_b"))
        for i in range(len(a)):
            pairs[f"{layers.blocks}.{i}.{name}"] = a[i].T, np.split(b[i], parts, axis=-1)[part].T
    rest = {path: np.asarray(leaf) for path, leaf in leaves.items() if "/lora_" not in path}
    words = {"patch": patch_name(patch), "base": fingerprint(_frozen(params))}
    return Lora(rank, layers, pairs, rest, words)


def read_lora(where: Path, own: Path, base: Params, scale: Scale) -> Params:
    """A file of A and B -> the stored tree with its mode, or with the pre-trained layers that it changes.

    Args:
      where: the file.
      own: what else is the mode's; a file that may be missing.
      base: the stored tree that it was made for.
      scale: s of a layer.

    Raises:
      UserError: another kind of adapter, layers that the model does not have, or a mode of another base.
    """
    state, trunk = read_safetensors(where)[0], flatten(base["trunk"])
    known = places(trunk)
    pairs = _pairs(state, where, spellings(known, layers_of(trunk)))
    if own.is_file():
        return _with_mode(where, own, base, pairs, scale)
    changed = set()
    for name, (a, b, alpha) in pairs.items():
        if name not in known:
            raise UserError(f"{where} holds LoRA of {name}, which base= has not, or cannot have merged")
        path, block, part, parts = known[name]
        if path not in changed:
            trunk[path] = np.array(trunk[path], np.float32)  # the base keeps its own
            changed.add(path)
        into = np.split(trunk[path][block], parts, axis=-1)[part]  # a view
        if a.shape[1:] + b.shape[:1] != into.shape or len(a) != b.shape[1]:
            raise UserError(f"{where}: {name} is {list(into.shape[::-1])}, its A {list(a.shape)}, B {list(b.shape)}")
        into += scale(len(a), alpha) * (a.T @ b.T)
    return {**base, "trunk": unflatten(trunk)}


def _with_mode(where: Path, own: Path, base: Params, pairs: dict[str, Pair], scale: Scale) -> Params:
    """The stored tree with the mode of a LoRA and what lies beside it."""
    rest, words = read_safetensors(own)
    if (found := fingerprint(_frozen(base))) != words.get("base"):
        made = str(words.get("base"))
        raise UserError(f"{where} was made for another base model (fingerprint {made[:12]}, base= has {found[:12]})")
    trunk = flatten(base["trunk"])
    layers, depth, leaves = layers_of(trunk), len(trunk["blocks/mlp/fc2/bias"]), dict(rest)
    for path in {path: None for path, *_ in layers.adapted.values()}:
        names = [name for name, (at, *_) in layers.adapted.items() if at == path]
        stacks = []
        for i in range(depth):
            try:
                found = [pairs.pop(f"{layers.blocks}.{i}.{name}") for name in names]
            except KeyError as error:
                raise UserError(f"{where} lacks the LoRA of {error.args[0]}") from None
            if not all(np.array_equal(a, found[0].a) for a, *_ in found):
                raise UserError(f"{where}: A of {' and '.join(names)} differ, and one layer here has one")
            b = np.concatenate([scale(len(a), alpha) * b.T for a, b, alpha in found], axis=-1)
            stacks.append((found[0].a.T, b))
        for leaf, stack in zip(("lora_a", "lora_b"), zip(*stacks, strict=True), strict=True):
            leaves[f"blocks/{path}/{leaf}"] = np.stack(stack)
    if pairs:
        raise UserError(f"{where} holds LoRA of {told([*pairs])}, which a mode has none of")
    return {**base, "modes": {**base["modes"], patch_name(as_patch(words["patch"])): unflatten(leaves)}}


def _frozen(params: Params) -> Params:
    return {key: params[key] for key in ("trunk", "tokens")}


def _pairs(state: Mapping[str, np.ndarray], where: Path, called: Mapping[str, str]) -> dict[str, Pair]:
    """A and B by the layer that they change, of whatever spelling.

    Args:
      called: spellings -> names of layers.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, array in state.items():
        tensor, alpha = _TENSOR.fullmatch(key), _ALPHA.fullmatch(key)
        if alpha is not None and array.size == 1:
            module, letter = alpha[1], "alpha"
        elif tensor is not None and array.ndim == 2:
            module, letter = tensor[1], _LETTERS.get(tensor[2], tensor[2])
        else:
            raise UserError(f"{key} of {where} is no A or B of a LoRA of linear layers, which alone is read")
        found.setdefault(called.get(module, module), {})[letter] = array.astype(np.float32)
    if half := [name for name, held in found.items() if not {"A", "B"} <= held.keys()]:
        raise UserError(f"{where} lacks A or B of {told(half)}")
    return {
        name: Pair(held["A"], held["B"], float(held["alpha"].item()) if "alpha" in held else None)
        for name, held in found.items()
    }
