"""From a config section to an object: parts are found by module name, keys are keyword arguments.

A dataset, codec, conditioner, solver or feature extractor is one file; its module name is its name
in a config. There is no registry to keep in step.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import math
import pkgutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from inspect import Parameter
from typing import Any, TypeAlias

from flexidit_jax.common.arguments import typed
from flexidit_jax.common.errors import UserError, nearest


def find(package: str, name: str, attribute: str) -> Any:
    """`attribute` of the module `name` of `package`.

    Raises:
      UserError: there is none; the message names the nearest, or all.
    """
    if name in _modules(package) and (found := _own(package, name, attribute)) is not None:
        return found
    raise UserError(f"no {name!r} in {package.rsplit('.', 1)[-1]}/{nearest(str(name), names(package, attribute))}")


def names(package: str, attribute: str) -> list[str]:
    """The modules of `package` that define `attribute`."""
    return [module for module in _modules(package) if _own(package, module, attribute) is not None]


def _modules(package: str) -> list[str]:
    return [module.name for module in pkgutil.iter_modules(importlib.import_module(package).__path__)]


def _own(package: str, module: str, attribute: str) -> Any:
    """`attribute` if defined there, not merely imported; else None."""
    found = getattr(importlib.import_module(f"{package}.{module}"), attribute, None)
    return found if getattr(found, "__module__", None) == f"{package}.{module}" else None


#: the annotation of a parameter that takes a section of a config
Section: TypeAlias = Mapping[str, Any]
#: where `defaults_noted` collects
_NOTED: ContextVar[dict[str, Any] | None] = ContextVar("noted", default=None)


@contextmanager
def defaults_noted() -> Iterator[dict[str, Any]]:
    """While the block builds parts, collects what a key means that a section leaves out.

    Yields:
      Such as `{"model.remat": "none", "train.ema.decay": 0.9999}`, JSON-ready; filled when the block ends.
    """
    noted: dict[str, Any] = {}
    token = _NOTED.set(noted)
    try:
        yield noted
    finally:
        _NOTED.reset(token)


#: where `readers_noted` collects
_READERS: ContextVar[list[tuple[str, Callable[..., Any]]] | None] = ContextVar("readers", default=None)


@contextmanager
def readers_noted() -> Iterator[list[tuple[str, Callable[..., Any]]]]:
    """While the block builds or checks parts, collects who reads which section, such as `("train.ema", Ema)`."""
    noted: list[tuple[str, Callable[..., Any]]] = []
    token = _READERS.set(noted)
    try:
        yield noted
    finally:
        _READERS.reset(token)


def _note_readers(where: str, *makers: Callable[..., Any]) -> None:
    if (noted := _READERS.get()) is not None:
        noted.extend((where, maker) for maker in makers)


def check(maker: Callable[..., Any], section: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Refuses a key that `maker` does not take, or a value that its annotation rules out.

    Returns:
      The section, its values as the annotations have them.

    Raises:
      UserError: the key as `where.key` beside the nearest valid one, or what it must be.
    """
    _note_readers(where, maker)
    return _checked(inspect.signature(maker).parameters, section, where)


def split(section: Mapping[str, Any], where: str, *makers: Callable[..., Any]) -> list[dict[str, Any]]:
    """A section that several makers share, checked as one: to each the keys that it takes.

    Raises:
      UserError: see `check`; the nearest key is that of any of them.
    """
    _note_readers(where, *makers)
    parameters = [inspect.signature(maker).parameters for maker in makers]
    read = _checked({key: parameter for taken in parameters for key, parameter in taken.items()}, section, where)
    return [{key: value for key, value in read.items() if key in taken} for taken in parameters]


def _check_section(section: Any, where: str) -> None:
    if not isinstance(section, Mapping):
        raise UserError(f"config key '{where}' must be a section, got {section!r}")


def _checked(parameters: Mapping[str, Parameter], section: Mapping[str, Any], where: str) -> dict[str, Any]:
    _check_section(section, where)
    if (noted := _NOTED.get()) is not None:
        noted |= {f"{where}.{key}": value for key, parameter in parameters.items() if _json(value := parameter.default)}
    for key in section:
        if key not in parameters:
            raise UserError(f"unknown config key '{where}.{key}'{nearest(str(key), parameters)}")
    return {
        key: typed(value, str(parameters[key].annotation), f"config key '{where}.{key}'")
        for key, value in section.items()
    }


def call(maker: Callable[..., Any], section: Mapping[str, Any], where: str) -> Any:
    """`maker(**section)`.

    Raises:
      UserError: an unknown key (the nearest valid one is named) or a missing one.
    """
    read = check(maker, section, where)
    for key, parameter in inspect.signature(maker).parameters.items():
        required = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if required and key not in read:
            raise UserError(f"config key '{where}.{key}' is missing")
    return maker(**read)


def part(package: str, attribute: str, section: Mapping[str, Any], where: str) -> Any:
    """Builds `package.<section["name"]>.<attribute>` from the other keys of `section`."""
    return call(*_named(package, attribute, section, where), where)


def check_part(package: str, attribute: str, section: Mapping[str, Any], where: str) -> None:
    """Refuses what `part` would refuse to build."""
    check(*_named(package, attribute, section, where), where)


def _named(
    package: str, attribute: str, section: Mapping[str, Any], where: str
) -> tuple[Callable[..., Any], dict[str, Any]]:
    _check_section(section, where)
    if "name" not in section:
        raise UserError(f"config key '{where}.name' is missing")
    maker = find(package, section["name"], attribute)
    words = {key: value for key, value in section.items() if key != "name"}
    check_owner(package, attribute, section["name"], words, where)
    return maker, words


def check_owner(package: str, attribute: str, name: str, words: Mapping[str, Any], where: str) -> None:
    """Refuses a key that the part of this name does not take and another one of the package does.

    Raises:
      UserError: whose key it is.
    """

    def takes(name: str) -> Mapping[str, Parameter]:
        return inspect.signature(find(package, name, attribute)).parameters

    own = takes(name)
    for key in (key for key in words if key not in own):
        if owners := [other for other in names(package, attribute) if key in takes(other)]:
            raise UserError(f"{where}.{key} is a key of {' and '.join(owners)}, not of {name}; leave it out")


def _json(value: Any) -> bool:
    """Whether a default is one that a config could hold."""
    if isinstance(value, (tuple, list)):
        return all(map(_json, value))
    return value is None or isinstance(value, (bool, int, float, str))


def describe(part: Any) -> dict[str, Any]:
    """The section that makes a part, a dataclass, again: its name and its fields."""
    return {"name": type(part).__module__.rsplit(".", 1)[-1], **dataclasses.asdict(part)}


def positive(where: str, **values: float) -> None:
    """Refuses numbers that must be above zero and are not."""
    for key, value in values.items():
        if not value > 0:
            raise UserError(f"{where}.{key} must be positive, got {value!r}")
        if value == math.inf:
            raise UserError(f"{where}.{key} must be finite, got {value!r}")
