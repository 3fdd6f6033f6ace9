"""From a config section to an object: parts are found by module name, keys are keyword arguments.

A dataset, codec, conditioner, solver or feature extractor is one file; its module name is its name
in a config. There is no registry to keep in step.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any

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


def check(maker: Callable[..., Any], section: Mapping[str, Any], where: str) -> Mapping[str, Parameter]:
    """Refuses a key that `maker` does not take, or a value that its annotation rules out.

    Raises:
      UserError: the key as `where.key` beside the nearest valid one, or what it must be.
    """
    parameters = inspect.signature(maker).parameters
    for key, value in section.items():
        if key not in parameters:
            raise UserError(f"unknown config key '{where}.{key}'{nearest(key, parameters)}")
        annotation = str(parameters[key].annotation)
        if not _suits(value, annotation):
            raise UserError(f"config key '{where}.{key}' must be {annotation.replace(' | ', ' or ')}, got {value!r}")
    return parameters


def call(maker: Callable[..., Any], section: Mapping[str, Any], where: str) -> Any:
    """`maker(**section)`.

    Raises:
      UserError: an unknown key (the nearest valid one is named) or a missing one.
    """
    for key, parameter in check(maker, section, where).items():
        required = parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
        if required and key not in section:
            raise UserError(f"config key '{where}.{key}' is missing")
    return maker(**section)


def part(package: str, attribute: str, section: Mapping[str, Any], where: str) -> Any:
    """Builds `package.<section["name"]>.<attribute>` from the other keys of `section`."""
    if "name" not in section:
        raise UserError(f"config key '{where}.name' is missing")
    maker = find(package, section["name"], attribute)
    return call(maker, {k: v for k, v in section.items() if k != "name"}, where)


def _suits(value: Any, annotation: str) -> bool:
    """Whether a value may be given for an annotation made of plain types; others are not judged, but for None."""
    plain = {"int": int, "float": (int, float), "str": str, "bool": bool, "None": type(None)}
    parts = annotation.split(" | ")
    if not all(part in plain for part in parts):
        return value is not None or "None" in parts or annotation in ("Any", "object", str(Parameter.empty))
    return any(isinstance(value, plain[part]) and (part == "bool") == isinstance(value, bool) for part in parts)


def positive(where: str, **values: float) -> None:
    """Refuses numbers that must be above zero and are not."""
    for key, value in values.items():
        if not value > 0:
            raise UserError(f"{where}.{key} must be positive, got {value!r}")
