"""The dataset of a config, and its classes: how many and what they are called, counted or as the run recorded it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexidit_jax.common import build
from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.runs.binding import CONFIG_FILE, recorded_config


def build_dataset(raw: dict[str, Any], workdir: Path | None = None) -> Any:
    """The dataset; classes and their names that the config leaves open (None) are put into it, in place.

    So the config that a run records says how many there were and what they are called. Where the images are gone and
    nobody can count them, that record tells.

    Args:
      raw: a config as JSON holds it; its sections `model.conditioner` and `dataset` are looked at.
      workdir: the run's folder; None for none.

    Returns:
      The dataset, None where there is none; its `classes` are None where they are neither counted, said nor recorded.
    """
    if raw["dataset"] is None:
        return None
    dataset, images = _built(raw["dataset"]), raw["dataset"].get("of", raw["dataset"])
    conditioner = raw["model"].get("conditioner")
    if not isinstance(conditioner, dict):
        return dataset
    classes, names = (getattr(dataset, key, None) for key in ("classes", "names"))
    before = {} if None not in (classes, names) else _recorded_conditioner(workdir)
    counts = classes is None and hasattr(dataset, "classes")
    if counts and (classes := conditioner.get("classes") or before.get("classes")):
        counted = {**images, "classes": classes}
        dataset = _built(counted if images is raw["dataset"] else {**raw["dataset"], "of": counted})
    if names is None and before.get("classes") == classes:
        names = before.get("names")
    for section in (conditioner, images):
        if "classes" in section and section["classes"] is None:
            section["classes"] = classes
    named = names is not None and conditioner.get("name") == "classes" and conditioner.get("names") is None
    if named and conditioner.get("classes") == len(names):
        conditioner["names"] = list(names)
    return dataset


def say_found(dataset: Any) -> None:
    """Says in one line what a dataset found and what it leaves out, where it can tell; once of several processes."""
    summary = getattr(dataset, "summary", None)
    if summary is not None and cluster.first():
        print(f"dataset: {summary()}")


def _built(section: Mapping[str, Any]) -> Any:
    return build.part("flexidit_jax.data", "Dataset", section, "dataset")


def _recorded_conditioner(workdir: Path | None) -> Mapping[str, Any]:
    if workdir is None or not (workdir / CONFIG_FILE).is_file():
        return {}
    model = recorded_config(workdir).get("model")
    conditioner = model.get("conditioner") if isinstance(model, dict) else None
    return conditioner if isinstance(conditioner, dict) else {}
