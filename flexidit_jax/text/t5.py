"""Prompts as T5 v1.1 reads them, which is what PixArt is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from flexidit_jax.common import build
from flexidit_jax.common.data_parallel import local_mesh
from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.common.files import content_digest
from flexidit_jax.common.hub import located
from flexidit_jax.common.notes import note
from flexidit_jax.common.placement import put
from flexidit_jax.common.tensor_files import SUFFIXES, config_of, told
from flexidit_jax.common.torch_files import Unread
from flexidit_jax.common.types import Array, Params
from flexidit_jax.common.weights import all_shards, full_set, open_weights, weight_files, within
from flexidit_jax.models.pretrained.t5 import T5Encoder
from flexidit_jax.models.pretrained.t5_layout import INSTEAD, NETWORKS, described, read_t5
from flexidit_jax.models.pretrained.t5_tokenizer import PIECES, Tokenizer

#: names of weight files in a folder of the transformers library
STEMS = ("model", "pytorch_model")
#: of a pipeline: its folders of the encoder and of the tokenizer
FOLDER, TOKENIZER = "text_encoder", "tokenizer"
#: by whether an encoder is a UMT5: what it is where the other was wanted
WRONG = {
    True: f"UMT5, each block of which has its own table of biases; {INSTEAD}",
    False: "T5 v1.1, all blocks of which have one table of biases; a UMT5 would do, such as google/umt5-xxl or the"
    " text_encoder folder of a Wan",
}
#: float16 overflows: the stream passes 65504
DTYPES = ("float32", "bfloat16")
#: kernels whose first axis is split over a mesh, so that only their products are summed over it; of all others the last
ROWS = ("out", "wo")


class T5:
    """An encoder on its devices.

    Attributes:
      model: its sizes.
    """

    def __init__(self, model: T5Encoder, params: Params) -> None:
        self.model = model
        self._params: Params | None = params

    def __call__(self, ids: Array, mask: Array | None = None) -> jax.Array:
        """Ids [B, L] and which of them are of a text, bool or 0 and 1 [B, L] (None: all) -> [B, L, d] float32.

        What stands where there is no text means nothing.

        Raises:
          UserError: other shapes, ids that there are not, a row without text, or an encoder that was freed.
        """
        ids = np.asarray(ids)
        mask = np.ones(ids.shape, bool) if mask is None else np.asarray(mask).astype(bool)
        if ids.ndim != 2 or mask.shape != ids.shape or not np.issubdtype(ids.dtype, np.integer):
            raise UserError(f"ids and mask must be whole numbers [B, L], got {ids.dtype} {ids.shape} and {mask.shape}")
        if ids.size and not 0 <= ids.min() <= ids.max() < self.model.words:
            raise UserError(f"ids lie in {ids.min()}..{ids.max()}, and the encoder has 0..{self.model.words - 1}")
        if not mask.any(axis=1).all():
            raise UserError(f"row {mask.any(axis=1).argmin()} of mask has no token; an empty text still has its end")
        if self._params is None:
            raise UserError("the memory of this encoder was given back; load it again")
        return _encoded(self.model, self._params, ids.astype(np.int32), mask)

    def free(self) -> None:
        """Gives back the memory of the parameters at once, whoever still holds this."""
        for leaf in jax.tree.leaves(self._params):
            leaf.delete()
        self._params = None


def load(path: str | Path, dtype: str = "float32", mesh: Mesh | None = None) -> T5:
    """Reads an encoder tensor by tensor: at no time does the host hold more than a few of them.

    Args:
      path: a folder as the transformers library writes it (one file or shards), or the folder of a pipeline, whose
        `text_encoder` is meant; a lone weight file, whose tensors tell all sizes; or a model at the hub (see
        `common.hub`).
      dtype: of products and the kernels they are of, "float32" or "bfloat16"; sums, norms and softmax are float32.
      mesh: devices that the kernels are split over; None for one device.

    Raises:
      UserError: nothing there, where the message says what to put there; a T5 v1.0 or another network; a damaged file;
        or another dtype.
    """
    _check_dtype(dtype, "dtype")
    file, state, model = _opened(path)

    def place(name: str, array: np.ndarray) -> jax.Array:
        last = name.rpartition("/")[2]
        leaf = array.astype(dtype if last in ("kernel", "tokens") else np.float32)
        placed = jnp.asarray(leaf) if mesh is None else put(leaf, NamedSharding(mesh, _split(name, leaf.shape, mesh)))
        return jax.block_until_ready(placed)  # before the next one is read

    with _told(file):
        return T5(model.clone(dtype=dtype), read_t5(model, state, place))


@dataclass(frozen=True)
class Encoder:
    """T5 v1.1 with its tokenizer.

    The network is read at the first use and kept until `free`; `check` says early whether all is there.

    Attributes:
      path: of the network, see `load`.
      tokenizer: a `spiece.model`, or a folder that holds one; None for the one beside the network, or in the
        `tokenizer` folder of its pipeline.
      length: M, tokens of a prompt with its end; None: as many as the model reads, 120 of PixArt-alpha, 300 of Sigma.
      clean: "lower" reads prompts in lower case and without space around them, "none" (or None) as they are.
      dtype: of products, "bfloat16" or "float32" (see `load`).
      batch: prompts at once.
      devices: of this process, which the kernels are split over.
    """

    #: what is done to a prompt before it is read
    cleaning: ClassVar[Mapping[str, Callable[[str], str]]] = {
        "lower": lambda prompt: prompt.lower().strip(),
        "none": lambda prompt: prompt,
    }
    #: whether it is the encoder each block of which has its own biases, a UMT5
    own_tables: ClassVar[bool] = False
    #: ids of its own for pieces that no text has, at most
    spare: ClassVar[int] = 128
    path: str = "./weights/t5-v1_1-xxl"
    tokenizer: str | None = None
    length: int | None = None
    clean: str | None = "lower"
    dtype: str = "bfloat16"
    batch: int = 8
    devices: int = 1

    def __post_init__(self) -> None:
        counts = {"batch": self.batch, "devices": self.devices}
        build.positive("text", **counts | ({} if self.length is None else {"length": self.length}))
        _check_dtype(self.dtype, "text.dtype")
        if self.clean is None:  # what a command line makes of the word
            object.__setattr__(self, "clean", "none")
        if self.clean not in self.cleaning:
            raise UserError(f"no text.clean {self.clean!r}{nearest(str(self.clean), self.cleaning)}")

    def check(self, width: int | None = None) -> None:
        """Says before long work whether network and tokenizer are there and of one model; reads few tensors.

        Args:
          width: channels of the features that a model reads.

        Raises:
          UserError: one is not, where the message says what to put where; features of another width; or see `load`.
        """
        file, _, model = _opened(self.path)
        if model.own_tables != self.own_tables:
            raise UserError(f"{file}: it is a {WRONG[model.own_tables]}")
        self._tokenizer.check(model.words, self.spare)
        if width not in (None, model.width):
            raise UserError(
                f"{self.path} makes features of {model.width} channels, and the model reads {width}; set text.path to"
                " the encoder that it was trained with, of PixArt T5 v1.1 xxl (4096)"
            )

    @property
    def width(self) -> int:
        """Channels of the features of a token.

        Raises:
          UserError: see `load`.
        """
        return _opened(self.path)[2].width

    def fingerprint(self) -> dict[str, str | int]:
        """What the tokens of a prompt depend on: content of network and tokenizer, length and cleaning.

        Raises:
          UserError: see `check`, or a file that cannot be read.
        """
        return {"encoder": self._digest, "length": self.length, "clean": self.clean}

    def encode(self, prompts: Sequence[str], padded: bool = False) -> dict[str, np.ndarray]:
        """Prompts -> `tokens` [B, M, d] float32, zero where there is no text, and `mask` bool [B, M].

        "" has a token, its end. A line says which prompts lose words, and which hold characters that T5 knows not.

        Args:
          prompts: texts.
          padded: keep what the network makes of places without text too, which some trainings read.

        Raises:
          UserError: no texts; see `check` and `load`, or a tokenizer of another model.
        """
        if self.length is None:
            raise UserError("text.length is open, and no model is there to say it; PixArt-alpha's is 120, Sigma's 300")
        if isinstance(prompts, str) or not len(prompts) or not all(isinstance(prompt, str) for prompt in prompts):
            raise UserError("prompts must be a list of texts, and at least one")
        found = self._tokenizer([self.cleaning[self.clean](prompt) for prompt in prompts], self.length)
        if lost := _of_prompts(prompts, found.lost):
            note(f"more than {self.length - 1} tokens, so the last words are not read: {lost}")
        if unknown := _of_prompts(prompts, found.unknown):
            note(f"characters that T5 does not know: {unknown}")
        batch = min(self.batch, len(prompts))
        filled = ((0, -len(prompts) % batch), (0, 0))  # so that one program does for all
        ids, mask = (np.pad(array, filled, mode="edge") for array in (found.ids, found.mask))
        rows = (slice(i, i + batch) for i in range(0, len(ids), batch))
        parts = [np.asarray(self._network(ids[part], mask[part])) for part in rows]
        tokens = np.concatenate(parts)[: len(prompts)]
        return {"tokens": np.where(found.mask[..., None] | padded, tokens, 0.0), "mask": found.mask}

    def free(self) -> None:
        """Gives back the memory of the network; the next `encode` reads it again."""
        if (network := self.__dict__.pop("_network", None)) is not None:
            network.free()

    @property
    def _spiece(self) -> Path:
        """The tokenizer's file.

        Raises:
          UserError: there is none.
        """
        beside = _weights(self.path)[0].parent
        folders = [Path(self.tokenizer).expanduser()] if self.tokenizer else [beside, beside.parent / TOKENIZER]
        for place in folders:
            if place.is_file():
                return place
            if (file := place / PIECES).is_file():
                return file
        where = " nor in ".join(map(str, folders))
        raise UserError(f"no {PIECES} in {where}; put that of a T5 v1.1 there (0.8 MB), or set text.tokenizer to it")

    @cached_property
    def _digest(self) -> str:
        return content_digest([*_weights(self.path), self._spiece]).hexdigest()[:16]

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer(self._spiece)

    @cached_property
    def _network(self) -> T5:
        self.check()
        return load(self.path, self.dtype, local_mesh(self.devices))


def _check_dtype(dtype: str, where: str) -> None:
    if dtype == "float16":
        raise UserError(f"{where}='float16' overflows in T5; 'bfloat16' has room, in as much memory")
    if dtype not in DTYPES:
        raise UserError(f"{where} must be 'float32' or 'bfloat16', got {dtype!r}")


def _opened(path: str | Path) -> tuple[Path, Unread, T5Encoder]:
    """The first file, the tensors, unread, and the sizes of the encoder that a path leads to.

    Raises:
      UserError: see `load`.
    """
    files = _weights(path)
    state, metadata = open_weights(files, NETWORKS)
    config = config_of(files[0], metadata)
    if "_class_name" in config:  # of the transformer that it lies beside
        config = {}
    with _told(files[0]):
        return files[0], state, described(state, config)


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """Refusals of a state dict, with the file that it is of."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error) if str(file.parent) in str(error) else f"{file}: {error}") from None


def _weights(path: str | Path) -> list[Path]:
    """The weight file that a path leads to, or its shards.

    Raises:
      UserError: there is none, or not all shards.
    """
    place = located(str(path), _needed)
    files = [place] if place.is_file() else []
    for folder in (place, place / FOLDER):
        for stem in STEMS:
            files = files or weight_files(folder, stem)
    if not files:
        folder = place.parent if place.suffix in SUFFIXES else place
        raise UserError(
            f"the weights of the text encoder are not at {path}; put the {FOLDER} folder of its pipeline"
            " (huggingface.co: config.json and model files; of a PixArt or a Wan 11 GB in bfloat16) into"
            f" {folder}, or set path to where they are"
        )
    if missing := [file.name for file in files if not file.exists()]:
        lost = told(missing)
        raise UserError(f"{files[0].parent} lacks {lost} of its {len(files)} shards; download these again")
    if len(files) > 1 and not all_shards([file.name for file in files]):
        raise UserError(f"{files[0].parent} lacks some of the shards of {files[0].name}; download them again")
    return files


def _needed(names: Sequence[str]) -> list[str]:
    """Those of the names of a model's files that are read.

    Raises:
      UserError: none of them.
    """
    for root in ("", f"{FOLDER}/"):
        inside = within(names, root)
        for stem in STEMS:
            if weights := full_set(inside, stem):
                pieces = [name for name in names if name in (PIECES, f"{TOKENIZER}/{PIECES}")]
                return [*(f"{root}{name}" for name in inside if name in ("config.json", *weights)), *pieces]
    raise UserError(f"it holds no {STEMS[0]}.safetensors of a text encoder")


def _split(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    """How a leaf lies on a mesh: an axis of a kernel over all devices where they divide it, anything else whole."""
    parent, _, last = name.rpartition("/")
    axis = 0 if parent.rpartition("/")[2] in ROWS else len(shape) - 1
    if last not in ("kernel", "tokens") or shape[axis] % mesh.size:
        return PartitionSpec()
    return PartitionSpec(*(mesh.axis_names if i == axis else None for i in range(len(shape))))


def _of_prompts(prompts: Sequence[str], found: Sequence[str]) -> str:
    """What was found in which prompts, in one line; "" where nothing was."""
    return told([f"{_short(what)} of {_short(prompt, 40)}" for prompt, what in zip(prompts, found) if what])


def _short(text: str, most: int = 80) -> str:
    """A text in quotes, in one line, its middle left out where it is long."""
    text = " ".join(text.split())
    return repr(text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}")


@partial(jax.jit, static_argnames="model")
def _encoded(model: T5Encoder, params: Params, ids: Array, mask: Array) -> Array:
    return model.apply({"params": params}, ids, mask)
