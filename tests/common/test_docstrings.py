"""What docstrings say of keys."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from flexidit_jax.common.docstrings import opening, sentences


@dataclass
class Base:
    """A thing.

    Attributes:
      size, depth: sides
        of it. More of that.
    """

    size: int
    depth: int


@dataclass
class Thing(Base):
    """Another.

    Attributes:
      depth: how deep; it was a side.
      later: key: with colons.

    Raises:
      oops: is no key.
    """

    later: int


def make(size: int, own: int = 3) -> Thing:
    """Makes one.

    Args:
      own: of the maker alone.
      size: see `Thing`.

    Returns:
      result: is no key.
    """
    return Thing(size, own, own)


def bare(size: int) -> int:
    return size


def test_a_class_speaks_for_its_bases() -> None:
    assert sentences(Base) == {"size": "sides of it", "depth": "sides of it"}
    assert sentences(Thing) == {"size": "sides of it", "depth": "how deep; it was a side", "later": "key: with colons"}


def test_a_function_speaks_before_what_it_returns() -> None:
    expected = sentences(Thing) | {"own": "of the maker alone"}
    assert sentences(make) == sentences(partial(make, 3)) == expected


def test_nothing_said() -> None:
    assert sentences(bare) == {}
    assert (opening(Thing.__doc__), opening(None)) == ("Another.", "")
