"""Config files and overrides: types are kept, typos name the nearest key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from flexidit_jax.common.config import difference, leaves, load_config, override, plain
from flexidit_jax.common.errors import UserError


@pytest.fixture
def config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "rate": 0.1,
            "flag": False,
            "name": "digits",
            "nothing": None,
            "labels": (1, 2),
            "model": {"width": 8, "latent": [1, 8, 8, 1]},
            "stages": ({"steps": 3, "patches": (2,)}, {"steps": 4, "patches": (2, 4)}),
        }
    )


@pytest.mark.parametrize(
    ("path", "text", "value"),
    [
        ("seed", "7", 7),
        ("rate", "2e-3", 2e-3),
        ("rate", "1", 1.0),  # an int is a float
        ("flag", "true", True),
        ("flag", "False", False),
        ("name", "faces", "faces"),
        ("name", "12", "12"),  # text stays text
        ("nothing", "0.5", 0.5),
        ("nothing", "runs/a", "runs/a"),
        ("seed", "none", None),
        ("labels", "3,4,5", (3, 4, 5)),
        ("labels", "[3, 4]", (3, 4)),
        ("labels", "3", (3,)),
        ("labels", "0-3,7", ("0-3", 7)),
        ("rate", "1:50,1.5:200", "1:50,1.5:200"),
        ("labels", "cats, 3, None", ("cats", 3, None)),
        ("model.width", "16", 16),
        ("model.latent", "(1, 4, 4, 3)", [1, 4, 4, 3]),
        ("stages[1].steps", "9", 9),
        ("stages[0].patches", "4", (4,)),
    ],
)
def test_override_keeps_the_type(config: ConfigDict, path: str, text: str, value: Any) -> None:
    before = dict(leaves(config))
    override(config, path, text)
    after = dict(leaves(config))
    assert after[path] == value
    assert type(after[path]) is type(value)
    assert {key: after[key] for key in after if key != path} == {key: before[key] for key in before if key != path}


def test_a_section_can_be_left_out(config: ConfigDict) -> None:
    override(config, "model", "None")
    assert config.model is None
    with pytest.raises(UserError, match=r"unknown config key 'model\.width'"):
        override(config, "model.width", "8")


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("modle.width", "8", "unknown config key 'modle.width'; did you mean 'model.width'?"),
        ("sede", "8", "unknown config key 'sede'; did you mean 'seed'?"),
        ("model", "8", "config key 'model' is a section, got '8'; set its keys, such as model.latent"),
        ("stages[0]", "8", "config key 'stages[0]' is a section, got '8'; set its keys, such as stages[0].steps"),
        ("labels[0]", "8", "unknown config key 'labels[0]'; did you mean 'labels'?"),
        ("model.width]", "8", "unknown config key 'model.width]'; did you mean 'model.width'?"),
        ("model.width.x", "8", "unknown config key 'model.width.x'; did you mean 'model.width'?"),
        ("stages[2].steps", "8", "unknown config key 'stages[2].steps'; did you mean 'stages[1].steps'?"),
        ("seed", "1.5", "config key 'seed' must be of type int, got '1.5'"),
        ("seed", "true", "config key 'seed' must be of type int, got 'true'"),
        ("flag", "1", "config key 'flag' must be of type bool, got '1'"),
        ("rate", "fast", "config key 'rate' must be of type float, got 'fast'"),
        ("rate", "True", "config key 'rate' must be of type float, got 'True'"),
    ],
)
def test_override_refuses(config: ConfigDict, path: str, text: str, message: str) -> None:
    before = dict(leaves(config))
    with pytest.raises(UserError) as caught:
        override(config, path, text)
    assert str(caught.value) == message
    assert dict(leaves(config)) == before


def test_a_key_that_its_section_does_not_show_is_set(config: ConfigDict) -> None:
    """Readers of sections know all keys, and refuse a misspelt one."""
    override(config, "model.depth", "8")
    override(config, "stages[1].warmup", "2")
    assert (config.model.depth, config.stages[1]["warmup"]) == (8, 2)


def test_a_part_is_given_by_name_or_by_name_and_keywords() -> None:
    config = ConfigDict({"sample": {"solver": "ddpm"}})
    override(config, "sample.solver", "{'name': 'sa_solver', 'tau': 0.5}")
    assert config.sample.solver.to_dict() == {"name": "sa_solver", "tau": 0.5}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return None", "get_config() of {} must return a ConfigDict, got NoneType"),
        ("return {'seed': 1}", "get_config() of {} must return a ConfigDict, got dict"),
        ("raise SystemExit(3)", "config file {} does not run (SystemExit: 3)"),
        ("raise ValueError('one\\ntwo')", "config file {} does not run (ValueError: one two)"),
    ],
)
def test_a_config_file_that_makes_no_config(tmp_path: Path, body: str, says: str) -> None:
    file = tmp_path / "bad.py"
    file.write_text(f"def get_config():\n    {body}\n")
    with pytest.raises(UserError) as caught:
        load_config(str(file))
    assert str(caught.value) == says.format(file)


def test_a_colon_wants_a_variant(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^config x\.py: names no variant; leave the colon out"):
        load_config("x.py:")


def test_override_of_no_key_at_all_lists_what_there_is(config: ConfigDict) -> None:
    with pytest.raises(UserError) as caught:
        override(config, "qqq", "1")
    assert str(caught.value).startswith("unknown config key 'qqq'; known: flag, labels, model.latent, ")


def test_leaves(config: ConfigDict) -> None:
    assert dict(leaves(config)) == {
        "seed": 0,
        "rate": 0.1,
        "flag": False,
        "name": "digits",
        "nothing": None,
        "labels": (1, 2),
        "model.width": 8,
        "model.latent": [1, 8, 8, 1],
        "stages[0].steps": 3,
        "stages[0].patches": (2,),
        "stages[1].steps": 4,
        "stages[1].patches": (2, 4),
    }


def test_difference(config: ConfigDict) -> None:
    here, there = plain(config), plain(config)
    assert difference(here, there) is None
    there["stages"][1]["steps"] = 5
    assert difference(here, there) == ("stages[1].steps", 4, 5)
    there = plain(config) | {"extra": 1}
    assert difference(here, there) == ("extra", None, 1)
    assert difference(there, here) == ("extra", 1, None)


FILE = """
from ml_collections import ConfigDict

def get_config(variant=""):
    return ConfigDict({"variant": variant})
"""


def test_load_config(tmp_path: Path) -> None:
    (tmp_path / "digits.py").write_text(FILE)
    assert load_config(f"{tmp_path}/digits.py").variant == ""
    assert load_config(f"{tmp_path}/digits.py:smoke").variant == "smoke"


@pytest.mark.parametrize(
    ("typed", "hint"),
    [
        ("digits", "; did you mean 'configs/digits.py'?"),
        ("digits:smoke", "; did you mean 'configs/digits.py:smoke'?"),
        ("digit.py", "; did you mean 'configs/digits.py'?"),
        ("configs/digits", "; did you mean 'configs/digits.py'?"),
        ("owm.py:a", "; did you mean 'own.py:a'?"),
        ("zzz", "; known: configs/digits.py, own.py"),
    ],
)
def test_a_config_that_is_not_there_is_looked_for_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, hint: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    for name in ("configs/digits.py", "own.py"):
        (tmp_path / name).write_text(FILE)
    (tmp_path / "digitsetup.py").write_text("# no config\n")
    with pytest.raises(UserError) as caught:
        load_config(typed)
    assert str(caught.value) == f"config file {typed.partition(':')[0]} does not exist{hint}"


def test_load_config_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.py").write_text(FILE)
    (tmp_path / "empty.py").write_text("")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    with pytest.raises(UserError) as caught:
        load_config(f"{tmp_path}/digit.py")
    expected = f"config file {tmp_path}/digit.py does not exist; did you mean '{tmp_path}/digits.py'?"
    assert str(caught.value) == expected
    with pytest.raises(UserError) as caught:
        load_config("no_such_folder/digits.py:smoke")
    assert str(caught.value) == "config file no_such_folder/digits.py does not exist"
    with pytest.raises(UserError) as caught:
        load_config(f"{tmp_path}/empty.py")
    assert str(caught.value) == f"config file {tmp_path}/empty.py has no get_config() function"
    with pytest.raises(UserError) as caught:
        load_config(f"{tmp_path}/broken.py")
    reason = "ZeroDivisionError: division by zero"
    assert str(caught.value) == f"config file {tmp_path}/broken.py does not run ({reason})"
