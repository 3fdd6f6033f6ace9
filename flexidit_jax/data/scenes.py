"""Scenes of two of scikit-learn's handwritten digits, with captions that say all there is to see.

    "a bold three left of a faint seven"     on a canvas of 8x16 pixels
    "a faint two above a bold five"          on one of 16x8

A scene is two cells of 8x8 pixels, each a kind: a digit, bold or faint. So a picture is read back cell by cell: who
tells the kinds of cells apart knows what its caption should be.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from flexidit_jax.common.build import positive
from flexidit_jax.common.errors import UserError
from flexidit_jax.data import digits

Record = dict[str, Any]

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
#: how much of its ink a digit has
INK = {"bold": 1.0, "faint": 0.5}
#: what a cell can be
KINDS = tuple(f"{ink} {word}" for word in WORDS for ink in INK)
#: where the first digit stands, by the axis of [F, H, W, C] along which the two lie
RELATIONS = {"left of": 2, "above": 1}
#: digits that add up to this are never trained on together: of all pairs a tenth, in which all are equally frequent
UNSEEN = 9
SIDE = 8
SHAPES = ((1, SIDE, 2 * SIDE, 1), (1, 2 * SIDE, SIDE, 1))


class Scene(NamedTuple):
    """What a caption says.

    Attributes:
      relation: of the first digit to the second.
      kinds: of the two cells, numbers of `KINDS`.
    """

    relation: str
    kinds: tuple[int, int]

    @classmethod
    def of(cls, caption: str) -> Scene:
        """The inverse of `str`.

        Raises:
          UserError: it is no caption of a scene.
        """
        kinds = "|".join(KINDS)
        if (found := re.fullmatch(f"a ({kinds}) ({'|'.join(RELATIONS)}) a ({kinds})", caption)) is None:
            raise UserError(f"{caption!r} is no caption of a scene, such as {str(cls('above', (4, 11)))!r}")
        first, relation, second = found.groups()
        return cls(relation, (KINDS.index(first), KINDS.index(second)))

    def __str__(self) -> str:
        first, second = (KINDS[kind] for kind in self.kinds)
        return f"a {first} {self.relation} a {second}"

    @property
    def bin(self) -> int:
        """Number of its size in `SHAPES`."""
        return [*RELATIONS].index(self.relation)

    @property
    def seen(self) -> bool:
        """Whether there are scenes of it to train on."""
        return sum(kind // len(INK) for kind in self.kinds) != UNSEEN


class Dataset:
    """Captioned scenes of two sizes; some digits, and some pairs of digits, are never trained on.

    Args:
      records: scenes to train on, each made when it is asked for.
      held_out: scenes of digits that are not trained on, of all pairs.
      digits_held_out: digits that are not trained on, see `data.digits`.
      split_seed: which ones.
      seed: of the scenes.
    """

    shape, shapes = SHAPES[0], SHAPES
    flip = False

    def __init__(
        self, records: int = 36_000, held_out: int = 800, digits_held_out: int = 297, split_seed: int = 0, seed: int = 0
    ) -> None:
        positive("dataset", records=records, held_out=held_out)
        if seed < 0:
            raise UserError(f"dataset.seed must be 0 or more, got {seed}")
        self._counts, self._seed = (records, held_out), seed
        self._digits = digits.Dataset(digits_held_out, split_seed)

    def source(self) -> Sequence[Record]:
        """The training records {"x", "texts"}."""
        return Scenes(self.examples(), [scene for scene in every_scene() if scene.seen], self._counts[0], self._seed)

    def held_out(self) -> Sequence[Record]:
        """Records {"x", "text"} of digits never trained on, in pairs that are and in pairs that are not."""
        return HeldOut(self.examples(held_out=True), every_scene(), self._counts[1], self._seed)

    def augment(self, record: Record, rng: np.random.Generator) -> Record:
        """A training record with one of its captions. Nothing is mirrored, as captions say left."""
        return {"x": record["x"], "text": record["texts"][rng.integers(len(record["texts"]))]}

    def captions(self, count: int) -> list[str]:
        """So many captions to ask for: all there are equally often, seen or not, of the two sizes in turn."""
        every = every_scene()
        return [str(every[i % len(every)]) for i in range(count)]

    def size(self, caption: str) -> tuple[int, ...]:
        """(F, H, W, C) of pictures of a caption."""
        return SHAPES[Scene.of(caption).bin]

    def seen(self, caption: str) -> bool:
        """Whether there are pictures of a caption to train on."""
        return Scene.of(caption).seen

    def cells(self, image: np.ndarray) -> np.ndarray:
        """The parts of a picture [H, W, C] that are read by themselves, [2, 8, 8, C]."""
        return np.stack(np.split(image, 2, axis=int(image.shape[1] > image.shape[0])))

    def wanted(self, caption: str) -> tuple[int, ...]:
        """The kinds of cells that a caption asks for: with all of them right all its words are."""
        return Scene.of(caption).kinds

    def examples(self, held_out: bool = False) -> list[Record]:
        """Cells with their kinds, {"x": [1, 8, 8, 1], "label"}, which a classifier learns to read.

        Args:
          held_out: those of digits that are not trained on.
        """
        found = self._digits.held_out() if held_out else self._digits.source()
        return [
            {"x": (digit["x"] + 1) * np.float32(ink) - 1, "label": np.int32(digit["label"] * len(INK) + number)}
            for digit in found
            for number, ink in enumerate(INK.values())
        ]


@cache
def every_scene() -> list[Scene]:
    """All that there can be, in a fixed disorder, of the two sizes in turn."""
    pairs = [*product(range(len(KINDS)), repeat=2)]
    order = np.random.default_rng(0).permutation(len(pairs))
    return [Scene(relation, pairs[i]) for i in order for relation in RELATIONS]


class Scenes(Sequence):
    """Record i is made when it is asked for, of (seed, i) alone: {"x", "texts"}.

    Args:
      cells: see `Dataset.examples`.
      scenes: of the records, in turn.
      records: how many.
      seed: of which cells they are made.

    Attributes:
      bins: number of the size of every record, int [records].
      texts: the captions of every record.
    """

    def __init__(self, cells: Sequence[Record], scenes: Sequence[Scene], records: int, seed: int) -> None:
        self._scenes, self._seed = scenes, seed
        self._cells: list[list[np.ndarray]] = [[] for _ in KINDS]
        for cell in cells:
            self._cells[cell["label"]].append(cell["x"])
        self.bins = np.resize([scene.bin for scene in scenes], records)
        self.texts = [(str(scenes[i % len(scenes)]),) for i in range(records)]

    def __len__(self) -> int:
        return len(self.bins)

    def __getitem__(self, i: int) -> Record:
        if not 0 <= i < len(self):
            raise IndexError(i)
        scene, rng = self._scenes[i % len(self._scenes)], np.random.default_rng((self._seed, i))
        cells = [self._cells[kind][rng.integers(len(self._cells[kind]))] for kind in scene.kinds]
        return {"x": np.concatenate(cells, RELATIONS[scene.relation]), "texts": self.texts[i]}


class HeldOut(Scenes):
    """The same with the first caption alone: {"x", "text"}."""

    def __getitem__(self, i: int) -> Record:
        record = super().__getitem__(i)
        return {"x": record["x"], "text": record["texts"][0]}
