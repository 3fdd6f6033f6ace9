"""Methods that are told how to sample: by a spec, by keys of one, or by both."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from flexidit_jax.common.errors import UserError
from flexidit_jax.sampling.schedule import X_OVER_Y
from flexidit_jax.sampling.spec import SampleSpec, check_known, drawn_seed
from flexidit_jax.sampling.unread import ASKS, check_read

#: ways to choose a schedule, and to say a size: a keyword that is one puts those of a spec aside
CHOOSING, SIZES = ("budget", "schedule", "latency_ms"), ("size", "aspect")


def spec_of(spec: SampleSpec | None, words: Mapping[str, Any], also: Iterable[str], where: str) -> SampleSpec:
    """`spec`, by default one of defaults, with `words` in place of its own.

    Args:
      also: what else `where`, which takes the words, knows.

    Raises:
      UserError: a word that is none; the nearest is named.
    """
    if spec is not None and not isinstance(spec, SampleSpec):
        raise UserError(f"spec must be a SampleSpec, got {type(spec).__name__}")
    check_known(words, also, where)
    return replace(SampleSpec() if spec is None else spec, **dict.fromkeys(put_aside(words)), **words)


def put_aside(words: Mapping[str, Any]) -> list[str]:
    """The keys whose values of before go, to None, where these words are said: they would speak of the same."""
    aside = [key for ways in (CHOOSING, SIZES) if any(words.get(one) is not None for one in ways) for key in ways]
    both = X_OVER_Y.fullmatch(str(words.get("schedule")))  # speaks for the guide too
    return [key for key in (*aside, *(("guide",) if both else ())) if key not in words]


def takes_spec(positional: str, several: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Lets a method be told its `spec`, keys of one, or both: keys then stand in place of the spec's own.

    It is the method of the model for the size that the spec asks for, in pixels (`FlexiDiT.of_size`).

    Args:
      positional: the order in which words may also be given without their names, those of the method among them; a
        key that is not among them wants its name.
      several: whether the method draws. `spec` may then also be a list, one a sample, where keys stand in place of
        those of every one; and a key that is typed and that no step would read is refused (`sampling.unread`).
    """
    order = positional.split()

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        own = inspect.signature(method).parameters
        place = list(own).index("spec")

        @functools.wraps(method)
        def told(*args: Any, **words: Any) -> Any:
            leading, rest = args[:place], args[place:]
            if rest and (isinstance(rest[0], SampleSpec) or (several and _is_list_of_specs(rest[0]))):
                words, rest = {"spec": rest[0], **words}, rest[1:]
            if len(rest) > len(order):
                raise UserError(f"{method.__name__} takes {len(order)} words without their names, got {len(rest)}")
            for word, value in zip(order, rest):
                if word in words:
                    raise UserError(f"{method.__name__} is told {word} twice")
                words[word] = value
            others = {word: words.pop(word) for word in own if word in words and word != "spec"}
            given, also = words.pop("spec", None), [word for word in own if word != "self"]
            listed = several and isinstance(given, (list, tuple))
            if listed and words.get("seed", 0) is None:  # one for all
                words["seed"] = drawn_seed()
            if listed and None in given:
                raise UserError("spec must be a SampleSpec, got NoneType")
            specs = [spec_of(one, words, also, method.__name__) for one in (given if listed else [given])]
            beside = {} if given is not None else others  # a negative goes along with ready specs, guided or not
            flex, specs = leading[0].of_size(specs)
            typed = {word: value for word, value in (words | beside).items() if value is not None}
            if several and not typed.keys().isdisjoint(ASKS):
                sampler, negative = flex.sampler, others.get("negative")
                alike = dict.fromkeys(replace(one, seed=0) for one in specs)  # no plan reads a seed
                check_read([sampler.unread(one, negative) for one in alike], typed)
            return method(flex, *leading[1:], **others, spec=specs if listed else specs[0])

        told.__signature__ = _signature(inspect.signature(method), place, order, several)
        return told

    return decorate


def _is_list_of_specs(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(one, SampleSpec) for one in value)


def _signature(method: inspect.Signature, place: int, order: Sequence[str], several: bool) -> inspect.Signature:
    """What `takes_spec` makes of a method's parameters, for `help`."""
    own, of_spec = method.parameters, inspect.signature(SampleSpec).parameters
    known = {**of_spec, **own}
    named = [known[word].replace(kind=inspect.Parameter.POSITIONAL_OR_KEYWORD) for word in order]
    others = [word for word in (*of_spec, *list(own)[place + 1 :]) if word not in order]
    named += [known[word].replace(kind=inspect.Parameter.KEYWORD_ONLY) for word in others]
    kinds = "SampleSpec | Sequence[SampleSpec] | None" if several else "SampleSpec | None"
    spec = own["spec"].replace(kind=inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kinds)
    return method.replace(parameters=[*list(own.values())[:place], *named, spec])
