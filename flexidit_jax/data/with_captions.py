"""What data sets of files with captions share: what is found and left out, what is held out, which caption is read."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.data.captioned_folder import captioned_folder
from flexidit_jax.data.captions import Kind, Pair, Pairs
from flexidit_jax.data.corrupt import Intact, check_share
from flexidit_jax.data.held_out import NONE, check_held_out, digest, kept_out, nothing_kept
from flexidit_jax.data.left_out import several
from flexidit_jax.data.listing import there
from flexidit_jax.data.tar_shards import captioned_shards, named_shards, shards_of

#: what a record says of its captions
Says = Callable[[tuple[str, ...]], dict[str, Any]]


class Binned(NamedTuple):
    """The files of a part of a data set that are read.

    Attributes:
      found: those of the part that no bin refuses.
      bins: int32 [len], the number of the bin of each; None where there is one.
    """

    found: Pairs
    bins: np.ndarray | None = None


@dataclass(frozen=True, kw_only=True)
class WithCaptions(ABC):
    """Files, each with one caption or several.

    A file without a caption and a caption without a file are counted and named, and not trained on; so are captions
    that are empty, no text in UTF-8, or disagree where several places speak of a file.

    Attributes:
      path: a folder of files with captions beside them, at any depth; or `.tar` shards, `{00000..00099}.tar`, one, or a
        folder of them.
      caption: the column of captions in `metadata.jsonl`, `metadata.csv` or a shard's `.json`; or the ending of texts
        beside files, such as ".txt". None: the first of text, caption and prompt, and `.txt` and `.caption`.
      captions: a file of captions that lies elsewhere, whose names are relative to `path`: `.jsonl`, `.csv`, COCO's
        JSON, or a JSON list. None: those that lie beside the files.
      flip: whether half of the records are mirrored; captions say left and right.
      max_corrupt: share of the files that may be corrupt (see `data.corrupt`); they are skipped.
      validation: as `path`, never trained on.
      validation_captions: as `captions`, of `validation`.
      held_out_share: without `validation`, the share kept from training, evenly along the names.
    """

    path: str
    caption: str | None = None
    captions: str | None = None
    flip: bool = False
    max_corrupt: float = 0.001
    validation: str | None = None
    validation_captions: str | None = None
    held_out_share: float = 0.0

    def __post_init__(self) -> None:
        check_share(self.max_corrupt)
        check_held_out(self.held_out_share, self.validation)
        if self.validation_captions is not None and self.validation is None:
            raise UserError("dataset.validation_captions are of dataset.validation, which is not set")

    @property
    @abstractmethod
    def kind(self) -> Kind:
        """What has captions."""

    @abstractmethod
    def binned(self, found: Pairs) -> Binned:
        """Which bin each file is of; looked at once a part.

        Raises:
          UserError: a file cannot be read, or all are of none.
        """

    @abstractmethod
    def opened(self, pair: Pair, name: str, bin: int) -> np.ndarray:
        """What is trained on of a file: float32 [F, H, W, C] of the shape of its bin.

        Args:
          name: what a user would look for.

        Raises:
          Corrupt: it cannot be decoded.
        """

    def source(self) -> Sequence[dict[str, Any]]:
        """The training records {"x", "texts"}; where there are several bins, with these.

        Raises:
          UserError: no files with captions; see `data.captioned_folder`, `data.tar_shards` and `binned`; or as for
            `held_out`, where that is asked for.
        """
        if self._holds_out:
            self.held_out()  # refused now, and not when the training is over
        return self._records(self._trained, lambda texts: {"texts": texts})

    def held_out(self) -> Sequence[dict[str, Any]]:
        """The records {"x", "text"} of `validation`, or those kept from training, each with its first caption.

        Raises:
          UserError: there are none, or as for `source`.
        """
        found, bins = self._held_out
        first = [pair._replace(captions=pair.captions[:1]) for pair in found.pairs]
        return self._records(Binned(replace(found, pairs=first), bins), lambda texts: {"text": texts[0]})

    def augment(self, record: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Takes one of the captions, and with `flip` mirrors half of the records."""
        x, texts = record["x"], record["texts"]
        text = texts[rng.integers(len(texts))]
        return {"x": x[:, :, ::-1] if self.flip and rng.random() < 0.5 else x, "text": text}

    def fingerprint(self, held_out: bool = False) -> str | None:
        """A hash of names and captions of all training files, or of those held out; wherever they are.

        Returns:
          None where they are not there.

        Raises:
          UserError: see `source` and `held_out`; no file but those of captions is read.
        """
        paths = (self.path, self.validation if held_out else None)
        if not all(_there(path) for path in paths if path is not None):
            return None
        part = self._listed_held_out if held_out else self._listed_trained
        return digest("\0".join((pair.name, *pair.captions)) for pair in part.pairs)

    def summary(self) -> str:
        """How many files and captions there are, how many are held out, and what is left out and why.

        Raises:
          UserError: see `source` and `held_out`.
        """
        trained = self._trained.found
        if self.validation is not None:
            other = self._held_out.found
            return f"{self._said(trained.pairs)}{trained.left_out}; held out: {self._said(other.pairs)}{other.left_out}"
        held_out = self._held_out.found.pairs if self._holds_out else []
        kept = f"{len(held_out):,} of them held out" if self._holds_out else NONE
        return f"{self._said([*trained.pairs, *held_out])}, {kept}{trained.left_out}"

    def _said(self, pairs: Sequence[Pair]) -> str:
        captions = sum(len(pair.captions) for pair in pairs)
        return f"{several(len(pairs), self.kind.noun)} with {several(captions, 'caption')}"

    def _records(self, part: Binned, said: Says) -> Sequence[dict[str, Any]]:
        return Intact(_Records(part, self.opened, said), self.max_corrupt)

    @property
    def _holds_out(self) -> bool:
        return self.validation is not None or self.held_out_share > 0

    @cached_property
    def _trained(self) -> Binned:
        return self.binned(self._listed_trained)

    @cached_property
    def _held_out(self) -> Binned:
        return self.binned(self._listed_held_out)

    @cached_property
    def _listed(self) -> Pairs:
        return self._pairs(self.path, "path", self.captions)

    @cached_property
    def _listed_trained(self) -> Pairs:
        return self._share(False)

    @cached_property
    def _listed_held_out(self) -> Pairs:
        if self.validation is not None:
            return self._pairs(self.validation, "validation", self.validation_captions)
        if (kept := self._share(True)).pairs:
            return kept
        raise nothing_kept(self.path, self.held_out_share, f"other captioned {self.kind.noun}s")

    def _share(self, held_out: bool) -> Pairs:
        """Those kept from training, or the others; they share what is left out."""
        every = enumerate(self._listed.pairs)
        return replace(self._listed, pairs=[p for i, p in every if kept_out(i, self.held_out_share) is held_out])

    def _pairs(self, path: str, key: str, captions: str | None) -> Pairs:
        """What there is at `dataset.<key>`.

        Raises:
          UserError: no files with captions; the message says what lies where.
        """
        kind, place = self.kind, os.path.expanduser(path)
        told = None if captions is None else Path(captions).expanduser()
        found, problem = None, f"holds no {kind.noun}s with captions"
        try:
            if shards := shards_of(place, kind):
                if told is not None:
                    raise UserError(f"dataset.{key}={path} are shards, whose captions lie within; leave {captions} out")
                found = captioned_shards(shards, kind, self.caption)
            else:
                found = captioned_folder(Path(place), kind, self.caption, told)
        except OSError as error:
            problem = f"cannot be listed ({error.strerror})"
        if found is not None and found.pairs:
            return found
        raise UserError(
            f"dataset.{key}={path} {problem}{found.left_out if found else ''}; it must hold {kind.noun}s with a text"
            f" beside each, such as {kind.example} and {Path(kind.example).with_suffix('.txt')}, or with a"
            f' metadata.jsonl of lines {{"file_name": "{kind.example}", "text": "a cat"}}, or .tar shards'
        )


class _Records(Sequence):
    """Files, read and decoded when they are asked for.

    Attributes:
      bins: int32 [len], the number of the bin of each; there where there are several.
      texts: the captions of each.
    """

    def __init__(self, part: Binned, opened: Callable[[Pair, str, int], np.ndarray], said: Says) -> None:
        self._found, self.bins = part
        self._opened, self._said = opened, said
        self.texts = [pair.captions for pair in self._found.pairs]

    def __len__(self) -> int:
        return len(self._found.pairs)

    def __getitem__(self, i: int) -> dict[str, Any]:
        pair = self._found.pairs[i]
        x = self._opened(pair, str(self._found.folder / pair.name), 0 if self.bins is None else int(self.bins[i]))
        return {"x": x, **self._said(pair.captions)}


def _there(path: str) -> bool:
    return there(path) or any(file.is_file() for file in named_shards(os.path.expanduser(path)))
