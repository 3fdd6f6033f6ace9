"""What a user typed, over what a config says: it wins, and nothing of it is dropped without a word."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

from ml_collections import ConfigDict

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.config import leaves, override
from flexidit_jax.common.errors import UserError
from flexidit_jax.experiment.sections import Sampling
from flexidit_jax.runs.binding import FREE, FREE_WITHIN
from flexidit_jax.sampling.spec import SampleSpec
from flexidit_jax.sampling.takes_spec import CHOOSING, SIZES, put_aside
from flexidit_jax.sampling.unread import check_read

HELD_OUT: dict[str, Any] = {"validation": None, "held_out_share": 0.0}
#: by section, keys of which one says it all, each with the value that says nothing
EXCLUSIVE = (
    *(("sample", dict.fromkeys(ways)) for ways in (CHOOSING, SIZES)),
    *((section, HELD_OUT) for section in ("dataset", "dataset.of")),
)
#: what a preset stands for: typed, it holds instead of what a config says of these
PRESET = {"model.size": ("model.width", "model.depth", "model.num_heads")}

_TYPED: ContextVar[frozenset[str]] = ContextVar("typed", default=frozenset())


@contextmanager
def typed_keys(keys: Iterable[str]) -> Iterator[None]:
    """While the block runs a job, these keys of its config are known to be a user's own."""
    token = _TYPED.set(frozenset(keys))
    try:
        yield
    finally:
        _TYPED.reset(token)


def was_typed(key: str) -> bool:
    """Whether a key of the running job's config is a user's own."""
    return key in _TYPED.get()


def let_win(config: ConfigDict, typed: Collection[str]) -> None:
    """Puts aside, in place, what a config says of the same as the keys `typed` do.

    Args:
      config: the typed values stand in it already.
      typed: paths of keys.

    Raises:
      UserError: two of them say the same; both flags are named.
    """
    for section, nothing in EXCLUSIVE:
        there = dict(leaves(config))
        said = [key for key, none in nothing.items() if there.get(f"{section}.{key}", none) != none]
        own = [key for key in said if f"{section}.{key}" in typed]
        if len(own) > 1:
            flags = " and ".join(f"--config.{section}.{key}={there[f'{section}.{key}']}" for key in own)
            raise UserError(f"{flags} speak of the same; give one of them")
        for key in said if own else ():
            if key not in own:
                override(config, f"{section}.{key}", str(nothing[key]))
    there = dict(leaves(config))
    words = {key: there[f"sample.{key}"] for key in (*CHOOSING, *SIZES) if f"sample.{key}" in typed}
    aside = [f"sample.{key}" for key in put_aside(words)]
    for preset, stands_for in PRESET.items():
        aside += stands_for if preset in typed and there[preset] is not None else ()
    for key in aside:
        if key not in typed and there.get(key) is not None:
            override(config, key, "None")


def unread_options(typed: Iterable[str], reads: Iterable[str]) -> list[str]:
    """The typed keys that a job does not read, where leaving them out would do: no folder is bound by them.

    Args:
      reads: the sections and keys that it does read, of those that may change between two starts.
    """

    def free(key: str) -> bool:
        top, _, below = key.partition(".")
        return top in FREE or (top == "train" and below.partition(".")[0] in FREE_WITHIN["train"])

    known = tuple(reads)
    return [key for key in typed if free(key) and not any(f"{key}.".startswith(f"{read}.") for read in known)]


def say_unread(flex: FlexiDiT, asked: Sampling) -> None:
    """Says which keys a `sample` section sets and no step of its plan reads, a line for each reason.

    Raises:
      UserError: such a key was typed, and asks for something to run.
    """
    found = flex.sampler.unread(asked.spec, asked.others["negative"])
    values: Mapping[str, Any] = {**asked.spec.recorded(), "negative": asked.others["negative"]}
    check_read([found], {key: values[key] for key in found if was_typed(f"sample.{key}")}, "sample.")
    why: dict[str, list[str]] = {}
    for key, reason in found.items():
        why.setdefault(reason, []).append(f"{key}={values[key]!r}")
    for reason, keys in why.items():
        print(f"read by no step: {', '.join(keys)}; {reason}")


def guidance_said(flex: FlexiDiT, spec: SampleSpec) -> str:
    """The scale of a spec that leaves nothing open, and beside another than the model's own, that one."""
    own = flex.meant(spec=replace(spec, guidance=None)).guidance
    return f"{spec.guidance}" + (f" (in Python {own} unless said)" if spec.guidance != own else "")
