"""The weights of one network out of whatever files hold, beside them or around them.

A network is found by its *mark*, a tensor that only such a network has. Whatever stands before the mark's name
(`module.`, `ema.`, `state_dict.model._orig_mod.`) stands before all names of that network, and is taken off.

A network that is written is one file, or shards of at most `SHARD` bytes with an index, as the field's tools have it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import written_aside
from flexidit_jax.common.notes import note
from flexidit_jax.common.tensor_files import json_object, open_tensors, read_tensors, save_tensors
from flexidit_jax.common.torch_files import Unread

#: bytes of a file of many, at most, unless one tensor alone has more
SHARD = 5_000_000_000
_AVERAGE = re.compile(r"(?<![a-z])(?<!exp_)(ema|avg|averaged?|swa|polyak|shadow)(?![a-z])", re.IGNORECASE)
#: what trainings keep beside their networks, and nobody misses
_STATE = re.compile(r"(^|[._])(opt|optim|optimizer\w*|lr_scheduler\w*|scaler|rng\w*)([._]|$)", re.IGNORECASE)


class Network(NamedTuple):
    """How the names of a kind of network are told from others.

    Attributes:
      kind: what it is called.
      mark: a tensor that every one has.
      parts: first words of its names. Below these a name is the network's own; other subtrees are foreign to it.
      unread: a pattern of names that its files bring along and no network reads, such as a count of batches.
    """

    kind: str
    mark: str
    parts: Collection[str]
    unread: str | None = None


def read_weights(
    files: Sequence[Path], network: Network | Sequence[Network], which: str | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of one network by their names in its layout, and the metadata of the first file; see `open_weights`.

    Raises:
      UserError: see `open_weights`, also of its tensors.
    """
    tensors, metadata = open_weights(files, network, which)
    return {name: read() for name, read in tensors.items()}, metadata


def open_weights(
    files: Sequence[Path], network: Network | Sequence[Network], which: str | None = None
) -> tuple[Unread, dict[str, str]]:
    """The tensors of one network by their names in its layout, unread, and the metadata of the first file.

    Names outside the network's parts are left out, and a line says so, but for the state of an optimizer; so it does
    where several networks were there.

    Args:
      files: one, or the shards of one.
      network: one, or the layouts that there are of one; the first whose mark is there is meant.
      which: of several networks: "ema" the averaged weights, "raw" those that are not, or the words before the names;
        None takes the averaged ones where there are both.

    Raises:
      UserError: unreadable files, no tensors but foreign ones, or several networks that `which` does not decide on; a
        tensor, once it is read, of values that are no real numbers or not finite.
    """
    tensors, metadata = open_shards(files)
    where = files[0] if len(files) == 1 else files[0].parent
    layouts = [network] if isinstance(network, Network) else network
    network = next((layout for layout in layouts if _prefixes(tensors, layout)), layouts[0])
    if network.unread:
        tensors = {name: tensor for name, tensor in tensors.items() if not re.search(network.unread, name)}
    there = _prefixes(tensors, network)
    if not there:  # another network, which the layout refuses
        return {name: partial(_read, name, tensors, where) for name in tensors}, metadata
    prefix = _chosen(there, tensors, which, where)
    own = [name for name in tensors if _is_of(name, prefix, network)]
    beside = [name for name in tensors if not _known(name, there, network)]
    if left := sorted({_branch(name, prefix) for name in beside}):
        note(f"{', '.join(left)} of {where} is no part of the {network.kind}, and not used")
    return {name.removeprefix(prefix): partial(_read_real, name, tensors, where) for name in own}, metadata


def open_shards(files: Sequence[Path]) -> tuple[Unread, dict[str, str]]:
    """All tensors of some files, unread, and the metadata of the first that has any.

    Raises:
      UserError: see `open_tensors`.
    """
    tensors, metadata = {}, {}
    for file in files:
        there, said = open_tensors(file)
        tensors, metadata = tensors | there, metadata or said
    return tensors, metadata


def full_set(names: Iterable[str], stem: str) -> list[str]:
    """Of the names of files, those that make one full set of weights: `stem.safetensors` or what stands for it.

    In this order: whole precision before a variant such as `fp16`, safetensors before what torch saved, one file before
    shards, of which the index is one of the names.
    """
    pattern = rf"{re.escape(stem)}(?:\.(\w+))?(-\d+-of-\d+)?(?:\.(\w+))?\.(safetensors|bin)(\.index(?:\.(\w+))?\.json)?"
    sets: dict[tuple[str, bool, bool], list[str]] = {}
    for name in sorted(names):
        if match := re.fullmatch(pattern, name):
            before, shard, after, kind, index, of_index = match.groups()
            key = before or after or of_index or "", kind == "bin", bool(shard or index)
            sets.setdefault(key, []).append(name)
    return sets[min(sets)] if sets else []


def all_shards(names: Iterable[str]) -> bool:
    """Whether no shard of those `-00001-of-00003` is missing among the names of files."""
    parts = [match.groups() for name in names if (match := re.fullmatch(r"(.*)-\d+-of-(\d+)(.*)", name))]
    return all(parts.count(part) == int(part[1]) for part in parts)


def within(names: Iterable[str], folder: str) -> list[str]:
    """The names of files directly in a folder (`""`, or with a slash at its end), of paths of many."""
    below = [name.removeprefix(folder) for name in names if name.startswith(folder)]
    return [name for name in below if "/" not in name]


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The files of a full set of weights in a folder; none where it holds none.

    Raises:
      UserError: an index that cannot be read, or that names files elsewhere.
    """
    names = full_set([file.name for file in folder.iterdir()] if folder.is_dir() else [], stem)
    if variant := re.search(r"\.(\w+)\.(?:safetensors|bin)$", names[0] if names else ""):
        note(f"{folder} holds weights of kind {variant[1]} only; these are read")
    for index in (name for name in names if name.endswith(".json")):
        files = json_object(folder / index).get("weight_map")
        names = list(files.values()) if isinstance(files, dict) else [None]
        if not all(isinstance(name, str) and re.fullmatch(r"[\w.-]+\.(safetensors|bin)", name) for name in names):
            raise UserError(f"{folder / index} names files that are not weights beside it")
    return [folder / name for name in sorted(set(names))]


def write_weights(
    folder: Path, stem: str, tensors: Mapping[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Writes a full set of weights in whole precision, which replaces such a one; whole or not at all.

    Args:
      folder: is there.
      stem: see `full_set`.
      tensors: by name; they are written in this order.
      metadata: of every file.

    Raises:
      OSError: the folder cannot be written.
    """
    shards = _in_shards(tensors)
    files = [f"{stem}.safetensors"]
    if len(shards) > 1:
        files = [f"{stem}-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    index = folder / f"{stem}.safetensors.index.json"
    old = {*written_weights(folder, stem), index}
    with ExitStack() as written:  # all of them take their names at its end
        if len(shards) > 1:
            size = sum(tensors[name].nbytes for name in tensors)
            where = {name: file for file, names in zip(files, shards, strict=True) for name in names}
            aside, old = written.enter_context(written_aside(index)), old - {index}
            aside.write_text(json.dumps({"metadata": {"total_size": size}, "weight_map": where}, indent=2) + "\n")
        for file, names in zip(files, shards, strict=True):
            aside = written.enter_context(written_aside(folder / file))
            save_tensors(aside, {name: tensors[name] for name in names}, metadata)
    for file in old.difference(folder / name for name in files):
        file.unlink(missing_ok=True)


def written_weights(folder: Path, stem: str) -> list[Path]:
    """What `write_weights` would replace in a folder: its one file, and shards."""
    names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    return [folder / name for name in sorted(names) if re.fullmatch(rf"{stem}(-\d+-of-\d+)?\.safetensors", name)]


def _in_shards(tensors: Mapping[str, np.ndarray]) -> list[list[str]]:
    """The names of each file, in their order."""
    shards: list[list[str]] = [[]]
    room = SHARD
    for name, array in tensors.items():
        if array.nbytes > room and shards[-1]:
            shards.append([])
            room = SHARD
        shards[-1].append(name)
        room -= array.nbytes
    return shards


def _read(name: str, tensors: Unread, where: Path) -> np.ndarray:
    return read_tensors([name], tensors, where)[name]


def _read_real(name: str, tensors: Unread, where: Path) -> np.ndarray:
    """One tensor.

    Raises:
      UserError: it is not of floating point; see `read_tensors`.
    """
    array = _read(name, tensors, where)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise UserError(f"{name} of {where} is {array.dtype}, and no floating-point weights")
    return array


def _chosen(prefixes: Sequence[str], names: Iterable[str], which: str | None, where: Path) -> str:
    """What stands before the names of the network that is wanted, of all that there are."""
    averaged = [prefix for prefix in prefixes if _AVERAGE.search(prefix)]
    raw = [prefix for prefix in prefixes if prefix not in averaged]
    named = [prefix for prefix in prefixes if which in (_words(prefix), prefix.partition(".")[0])]
    wanted = {None: averaged or raw, "ema": averaged, "raw": raw}.get(which, named)
    outermost = [p for p in wanted if not any(p.startswith(other) and p != other for other in wanted)]
    if len(outermost) != 1:
        said = "" if which is None else f", and weights={which!r} is not one of these"
        raise UserError(f"{where} holds weights under {', '.join(map(_words, prefixes))}{said}; name one as weights=")
    [prefix] = outermost
    tops = {name.partition(".")[0] for name in names if "." in name}
    lost = sorted(top for top in tops if _AVERAGE.search(top))
    nested = [other for other in raw if prefix in raw and other != prefix and other.startswith(prefix)]
    if which is None and averaged and raw:
        note(f"{where} holds raw and averaged weights; the averaged ones ({_words(prefix)}) are taken")
    elif lost and not averaged:
        note(f"{', '.join(lost)} of {where} is an average by names that are not read; {_words(prefix)} is taken")
    if which is None and nested:
        note(f"{where} holds another network under {', '.join(map(_words, nested))}; {_words(prefix)} is taken")
    return prefix


def _known(name: str, prefixes: Iterable[str], network: Network) -> bool:
    """Whether a name is of one of the networks there are, an average, or of what trainings keep beside them."""
    of_one = any(_is_of(name, prefix, network) for prefix in prefixes)
    return of_one or bool(_STATE.search(name)) or bool(_AVERAGE.search(name.partition(".")[0]))


def _branch(name: str, prefix: str) -> str:
    """A name to the word in which it leaves a prefix: `a.c` of `a.c.d` where that is `a.b.`, `c` where it is `a.`."""
    words, known = name.split("."), prefix.split(".")
    same = next((i for i, (word, like) in enumerate(zip(words, known)) if word != like), len(known) - 1)
    return ".".join(words[: same + 1]).removeprefix(prefix)


def _words(prefix: str) -> str:
    return prefix.strip(".") or "no prefix"


def _prefixes(names: Collection[str], network: Network) -> list[str]:
    found = sorted(name.removesuffix(network.mark) for name in names if f".{name}".endswith(f".{network.mark}"))
    return [prefix for prefix in found if not _STATE.search(prefix)]


def _is_of(name: str, prefix: str, network: Network) -> bool:
    """Whether a name is of the network under a prefix: in one of its subtrees, or a tensor in no subtree."""
    part, dot, _ = name.removeprefix(prefix).partition(".")
    return name.startswith(prefix) and (not dot or part in network.parts)
