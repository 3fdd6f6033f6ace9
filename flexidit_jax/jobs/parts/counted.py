"""Classes that a config leaves to its dataset to count."""

from __future__ import annotations

from typing import Any


def count_classes(raw: dict[str, Any], dataset: Any) -> None:
    """Puts the classes that `dataset` has where a config says None of them, in place.

    So the config that a run records says how many there were, also where nobody can count them any more.

    Args:
      raw: a config as JSON holds it; its sections `model.conditioner` and `dataset` are looked at.
      dataset: what its `dataset` section builds.
    """
    images = raw["dataset"].get("of", raw["dataset"])
    for section in (raw["model"].get("conditioner") or {}, images):
        if "classes" in section and section["classes"] is None:
            section["classes"] = dataset.classes
