"""Class labels, with one extra row for "no class"."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Array


class Conditioner(nn.Module):
    """Embeds labels 0..classes; `classes` is the null class.

    Attributes:
      width: d of the transformer.
      classes: number of real classes.
      drop_rate: share of training labels replaced by the null class.
    """

    width: int
    classes: int
    drop_rate: float = 0.1

    def __post_init__(self) -> None:
        if self.classes < 1 or not 0 <= self.drop_rate <= 1:
            raise UserError(
                "model.conditioner wants classes of at least 1 and a drop_rate in [0, 1],"
                f" got {self.classes!r} and {self.drop_rate!r}"
            )
        super().__post_init__()

    #: the key under which a dataset yields what this conditioner reads
    field = "label"

    @nn.compact
    def __call__(self, label: Array) -> Array:
        table = self.param("table", nn.initializers.normal(0.02), (self.classes + 1, self.width), jnp.float32)
        return table[label]  # [B, d]

    def parse(self, labels: Sequence[int | None] | Array) -> np.ndarray:
        """Labels as typed by a user -> int32 [B]; `None` is the null class.

        Raises:
          UserError: not integers, or outside 0..classes.
        """
        if np.ndim(labels) != 1:
            raise UserError(f"labels must be a list such as [0, {self.classes - 1}], got {labels!r}")
        values = [self.classes if label is None else label for label in labels]
        if not values:
            raise UserError(f"labels are empty; give at least one of 0..{self.classes}")
        for value in values:
            if isinstance(value, (bool, np.bool_)) or not np.issubdtype(np.asarray(value).dtype, np.integer):
                raise UserError(f"label {value!r} is not an integer in 0..{self.classes}")
            if not 0 <= value <= self.classes:
                raise UserError(f"label {value} is out of range: 0..{self.classes}, {self.classes} meaning no class")
        return np.array(values, np.int32)

    def null(self, label: Array) -> Array:
        """The unconditional labels for a batch: int32 [B]."""
        return jnp.full_like(label, self.classes)

    def drop(self, label: Array, key: Array) -> Array:
        """Replaces each label by the null class with probability `drop_rate`."""
        dropped = jax.random.bernoulli(key, self.drop_rate, label.shape)
        return jnp.where(dropped, self.classes, label)
