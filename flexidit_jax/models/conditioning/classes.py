"""Class labels, with one extra row for "no class"."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.arguments import shown
from flexidit_jax.common.axes import laid
from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.common.types import Array
from flexidit_jax.models.conditioning.condition import Condition, Context

#: from .. to, both meant
_RANGE = re.compile("[0-9]+-[0-9]+")
_LIST = re.compile("[0-9]+(-[0-9]+)?( *, *[0-9]+(-[0-9]+)?)*")


class Conditioner(nn.Module):
    """Embeds {"label": int32 [B], "null": bool [B]}: a row of a table, its last where null is set.

    Attributes:
      width: d of the transformer.
      classes: number of real classes.
      drop_rate: share of training labels replaced by no class.
      names: what classes may be called besides their number: a file of `names/`, such as "imagenet", or the name of
        each.
    """

    width: int
    classes: int
    drop_rate: float = 0.1
    names: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.classes < 1 or not 0 <= self.drop_rate <= 1:
            raise UserError(
                "model.conditioner wants classes of at least 1 and a drop_rate in [0, 1],"
                f" got {self.classes!r} and {self.drop_rate!r}"
            )
        if self.names is not None and not isinstance(self.names, str):
            if not isinstance(self.names, Sequence) or not all(isinstance(name, str) for name in self.names):
                raise UserError(f"model.conditioner.names must be names or 'imagenet', got {self.names!r}")
            object.__setattr__(self, "names", tuple(self.names))  # a list, as JSON has it, is no key of a program
        if self.names is not None and (named := len(_lines(self.names))) != self.classes:
            which = f"={self.names}" if isinstance(self.names, str) else ""
            raise UserError(f"model.conditioner.names{which} names {named} classes, not {self.classes}")
        super().__post_init__()

    fields = ("label",)

    @property
    def limits(self) -> dict[str, tuple[int, int]]:
        """See `models.conditioning`."""
        return {"label": (0, self.classes - 1)}

    @nn.compact
    def __call__(self, cond: Condition) -> Context:
        table = self.param("table", nn.initializers.normal(0.02), (self.classes + 1, self.width), jnp.float32)
        return Context(vector=laid(table)[jnp.where(cond["null"], self.classes, cond["label"])])  # [B, d]

    def parse(self, labels: Sequence[int | str | None] | Array) -> Condition:
        """Labels as typed by a user: numbers 0..classes-1, names, or for no class `None` or the number of classes.

        `"0-3"` stands for 0, 1, 2 and 3, and `"0-3,7"` for all of `["0-3", 7]`.

        Raises:
          UserError: outside 0..classes, or a name that no class or several classes have.
        """
        if isinstance(labels, str) and "-" in labels and _LIST.fullmatch(labels):
            labels = [word if "-" in word else int(word) for word in labels.split(",")]  # "12" is a slip of [1, 2]
        rows = np.asarray(labels, object)
        if isinstance(labels, str) or rows.ndim != 1:
            raise UserError(f"labels must be a list such as [0, {self.classes - 1}], got {shown(labels)}")
        values = [number for label in rows for number in self._numbers(label)]
        if not values:
            raise UserError(f"labels are empty; give at least one of 0..{self.classes}")
        for value in values:
            whole = np.ndim(value) == 0 and np.issubdtype(np.asarray(value).dtype, np.integer)
            if isinstance(value, (bool, np.bool_)) or not whole:
                raise UserError(f"label {shown(value)} is not an integer in 0..{self.classes}")
            if not 0 <= value <= self.classes:
                raise UserError(f"label {value} is out of range: 0..{self.classes}, {self.classes} meaning no class")
        label = np.array(values, np.int32)
        null = label == self.classes
        return {"label": np.where(null, 0, label), "null": null}

    def said(self, cond: Condition) -> str:
        """What a condition asks for, such as `207 (golden retriever), none`, at most ten of it; "" without names."""
        if self.names is None:
            return ""
        names = [name.split(", ")[0] if isinstance(self.names, str) else name for name in _lines(self.names)]
        rows = zip(cond["label"].tolist(), cond["null"].tolist(), strict=True)
        asked = list(dict.fromkeys("none" if null else f"{label} ({names[label]})" for label, null in rows))
        return ", ".join(asked[:10]) + (f" and {len(asked) - 10} more" if len(asked) > 10 else "")

    def _numbers(self, label: int | str | None) -> Sequence[int]:
        if label is None:
            return [self.classes]
        if isinstance(label, str) and _RANGE.fullmatch(label.strip()):
            first, last = map(int, label.split("-"))
            if not first <= last <= self.classes:
                raise UserError(f"labels {label!r} are no range of 0..{self.classes}, such as 0-{self.classes - 1}")
            return range(first, last + 1)
        if self.names is None or not isinstance(label, str):
            return [label]
        names = class_names(self.names, exact=True)
        numbers = names.get(label) or class_names(self.names).get(_spelled(label), ())
        if len(numbers) == 1:
            return numbers
        if numbers:
            choice = ", ".join(f"{number} ({_lines(self.names)[number]})" for number in numbers)
            raise UserError(f"label {label!r} names several classes, give a number: {choice}")
        raise UserError(f"no class is called {label!r}{nearest(label, names, most=3)}")


@cache
def class_names(names: str | tuple[str, ...], exact: bool = False) -> dict[str, tuple[int, ...]]:
    """Every name -> the classes that have it.

    Args:
      names: one of each class; or the name of a file of `names/`. Line n of such a file holds the names of class n,
        separated by ", ". Those of ImageNet are the WordNet lemmas of its 1,000 synsets, in the order of their numbers.
      exact: as they are written, instead of as they are `_spelled`.

    Raises:
      UserError: no such file.
    """
    classes: dict[str, list[int]] = defaultdict(list)
    for number, line in enumerate(_lines(names)):
        for word in line.split(", ") if isinstance(names, str) else (line,):
            classes[word if exact else _spelled(word)].append(number)
    return {word: tuple(numbers) for word, numbers in classes.items()}


@cache
def _lines(names: str | tuple[str, ...]) -> Sequence[str]:
    """One a class."""
    if not isinstance(names, str):
        return names
    folder = Path(__file__).with_name("names")
    known = [file.stem for file in folder.glob("*.txt")]
    if names not in known:
        raise UserError(f"no names of classes called {names!r}{nearest(names, known)}")
    return (folder / f"{names}.txt").read_text().splitlines()


def _spelled(name: str) -> str:
    """Case, underscores, spaces around and the way an accent is encoded do not matter."""
    return unicodedata.normalize("NFC", name).strip().lower().replace("_", " ")
