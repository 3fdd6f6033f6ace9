"""A folder of our own whose description is damaged."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import flexidit_jax as fd

MISSING = object()
WRONG = (MISSING, None, [1, "x"], 10**20)


def keys(section: dict[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in section.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from keys(value, (*above, key))


def test_every_key_may_be_missing_or_of_another_type(flex: fd.FlexiDiT, tmp_path: Path) -> None:
    """It loads by a default, or one line says what is wrong."""
    flex.save(tmp_path)
    file = tmp_path / "config.json"
    good = json.loads(file.read_text())
    for path in keys(good):
        for wrong in WRONG:
            bad = copy.deepcopy(good)
            section = bad
            for key in path[:-1]:
                section = section[key]
            section.pop(path[-1]) if wrong is MISSING else section.__setitem__(path[-1], wrong)
            file.write_text(json.dumps(bad))
            try:
                fd.load(tmp_path)
            except fd.UserError as error:
                assert "\n" not in str(error), (path, wrong)


@pytest.mark.parametrize("key", ["patches", "base", "model", "process", "codec"])
def test_what_is_missing_is_named(flex: fd.FlexiDiT, tmp_path: Path, key: str) -> None:
    flex.save(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    del config[key]
    file.write_text(json.dumps(config))
    with pytest.raises(fd.UserError) as caught:
        fd.load(tmp_path)
    assert str(caught.value) == f"config key '{file}.{key}' is missing"


MACHINE = {"attention": "flash", "remat": "dots", "unroll": 4}  # a kernel that there no longer is


def test_what_it_says_of_the_machine_it_was_made_on_is_not_read(flex: fd.FlexiDiT, tmp_path: Path) -> None:
    flex.save(tmp_path)
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    assert not MACHINE.keys() & config["model"].keys()
    file.write_text(json.dumps(config | {"model": config["model"] | MACHINE}))
    model = fd.load(tmp_path).model
    assert (model.attention, model.remat, model.unroll) == ("auto", "none", 1)
    flex.save(tmp_path)  # over it: the same model
    assert json.loads(file.read_text()) == config
    file.write_text(json.dumps(config | {"model": config["model"] | MACHINE | {"num_heads": 8}}))
    with pytest.raises(fd.UserError, match=r"\(model\.num_heads is 8 there, 4 here\)"):
        flex.save(tmp_path)
