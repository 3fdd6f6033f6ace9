"""The file that holds an extractor's weights: found, read without running it, and known by its hash."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import content_digest, folder_named
from flexidit_jax.common.graph_files import GRAPH_SUFFIX
from flexidit_jax.common.hub import located
from flexidit_jax.common.notes import note
from flexidit_jax.common.tensor_files import SUFFIXES, config_of, write_safetensors
from flexidit_jax.common.weights import Network, full_set, read_weights, weight_files

#: names of weight files in a folder of the transformers library
STEMS = ("model", "pytorch_model")
#: the hash that torch.hub puts into a name
_NAMED = re.compile(r"-([0-9a-f]{8,64})\.\w+$")


@dataclass(frozen=True)
class Published:
    """How the weights of an extractor come.

    Attributes:
      extractor: its name.
      networks: the layouts there are of it.
      files: names under which a folder may hold it, the preferred one first.
      fetch: what to put there, for the message that there is nothing; "{path}" is where.
      instead: of a file that is none, what to take.
      beside: files of a model at the hub that are read too.
    """

    extractor: str
    networks: Sequence[Network]
    files: Sequence[str]
    fetch: str
    instead: str
    beside: Sequence[str] = ("config.json",)


@dataclass(frozen=True)
class Weights:
    """The weights of an extractor as they were read.

    Attributes:
      file: the file, or the first of its shards.
      sha256: of the file; of shards, of all in the order of their names.
      source_sha256: of the file that it was converted from; `sha256` where it was not, or does not say.
      state: arrays by name.
      config: what the file, or the `config.json` beside it, says of the network.
    """

    file: Path
    sha256: str
    source_sha256: str
    state: Mapping[str, np.ndarray]
    config: Mapping[str, Any]

    def made(self, make: Callable[..., Any], *args: Any) -> Any:
        """What `make` makes of the state and `args`.

        Raises:
          UserError: what it refuses, with the file.
        """
        try:
            return make(self.state, *args)
        except UserError as error:
            raise UserError(f"{self.file}: {error}") from None


def read(path: str | Path, published: Published) -> Weights:
    """Finds and reads the weights of an extractor.

    Args:
      path: a file, or a folder that holds one; or a model at the hub (see `common.hub`).

    Raises:
      UserError: nothing there, where the message says what to put there; or a file that is damaged or would run code.
    """
    files = _found(path, published)
    for file in files:
        if kind := _code(file):
            raise UserError(f"{file} is {kind}, which is code and is not run; take {published.instead}")
    state, metadata = read_weights(files, published.networks)
    sha256 = content_digest(files).hexdigest()
    if (named := _NAMED.search(files[0].name)) and not sha256.startswith(named[1]):
        found = f"{named[1]}.. and has {sha256[: len(named[1])]}.."
        note(f"{files[0]} is named for a SHA-256 of {found}; it is another file, or damaged")
    config = config_of(files[0], metadata)
    return Weights(files[0], sha256, metadata.get("source_sha256", sha256), state, config)


def write(
    path: str | Path,
    weights: Weights,
    rename: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]],
    overwrite: bool = False,
) -> None:
    """Writes weights as one .safetensors file that `read` reads, the hash of their source in its metadata.

    Raises:
      UserError: a path that is no such file, that holds something, or that cannot be written.
    """
    path = folder_named(str(path), "path")
    if path.suffix != ".safetensors":
        raise UserError(f"the weights of an extractor are written as one .safetensors file, not as {path}")
    if path.exists() and not overwrite:
        raise UserError(f"{path} is there; overwrite=True replaces it, or name another place")
    said = {"source": weights.file.name, "source_sha256": weights.source_sha256, "format": "pt"}
    config = {"config": json.dumps(dict(weights.config))} if weights.config else {}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(path, dict(rename(weights.state)), said | config)
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write to {path} ({error})") from None


def _found(path: str | Path, published: Published) -> list[Path]:
    """The file of weights that a path leads to, or its shards.

    Raises:
      UserError: none.
    """

    def needed(names: Sequence[str]) -> list[str]:
        for stem in STEMS:
            if weights := full_set(names, stem):
                return [*weights, *(name for name in names if name in published.beside)]
        raise UserError(f"it holds no {STEMS[0]}.safetensors")

    place = located(str(path), needed)
    if place.is_file():
        return [place]
    for name in published.files:
        if (place / name).is_file():
            return [place / name]
    for stem in STEMS:
        if files := weight_files(place, stem):
            return files
    folder = place.parent if place.suffix in (*SUFFIXES, GRAPH_SUFFIX) else place
    cure = f"put {published.fetch.format(path=folder)}, or set path to where they are"
    raise UserError(f"the weights of {published.extractor} are not at {path}; {cure}")


def _code(file: Path) -> str | None:
    """What a file is that only running it could read, None where it is none of these."""
    if file.suffix in (".pkl", ".pickle"):
        return "a pickle"
    try:
        with zipfile.ZipFile(file) as archive:
            program = any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):  # for who reads it to say
        return None
    return "a TorchScript program" if program else None
