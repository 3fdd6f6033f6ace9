"""What binds a folder, and that a key more or less than was recorded binds none: its default counts."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flexidit_jax.common.config import difference, load_config, plain
from flexidit_jax.common.errors import UserError
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.main import main
from flexidit_jax.runs.binding import check_config

CONFIGS = Path(__file__).parents[2] / "configs"
FILE = f"{CONFIGS / 'digits.py'}:smoke"
CONFIG = f"--config={FILE}"
Edit = Callable[[dict[str, Any]], object]


# ---------------------------------------------------------------- Comparing


def test_a_key_left_out_means_its_default_on_either_side() -> None:
    defaults = {"model.remat": "none", "model.latent": (1, 2)}
    assert difference({"model": {"remat": "none"}}, {"model": {}}, defaults) is None
    assert difference({"model": {}}, {"model": {"remat": "none"}}, defaults) is None
    assert difference({"model": {}}, {"model": {"latent": [1, 2]}}, defaults) is None
    assert difference({"model": {"remat": "full"}}, {"model": {}}, defaults) == ("model.remat", "full", "none")
    assert difference({"model": {}}, {"model": {"remat": "full"}}, defaults) == ("model.remat", "none", "full")
    assert difference({"model": {"dtype": "float32"}}, {"model": {}}, defaults) == ("model.dtype", "float32", None)


def test_defaults_are_those_of_the_makers() -> None:
    defaults = build_experiment(load_config(FILE)).defaults
    wanted = {
        "init_from": None,
        "model.remat": "none",
        "model.conditioner.names": None,
        "process.steps": 1000,
        "train.accumulate": 1,
        "train.optimizer.b2": 0.999,
        "train.ema.decay": 0.9999,
        "train.stages[1].final_rate": 1.0,
        "train.loss.vlb_weight": 1.0,
        "sample.guidance": 1.5,
        "sample.first": 0,
    }
    assert {key: defaults[key] for key in wanted} == wanted


# ---------------------------------------------------------------- A run's folder


def without_optimizer_key(config: dict[str, Any]) -> None:
    del config["train"]["optimizer"]["b1"]


def without_section(config: dict[str, Any]) -> None:
    del config["train"]["accumulate"], config["search"], config["compile"]


def with_more(config: dict[str, Any]) -> None:
    config["model"]["mlp_ratio"] = 4
    config["train"]["stages"][0]["adapters"] = None


@pytest.fixture
def run(smoke_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(smoke_run, tmp_path / "run")


def edit(folder: Path, change: Edit) -> None:
    recorded = json.loads((folder / "config.json").read_text())
    change(recorded)
    (folder / "config.json").write_text(json.dumps(recorded))


@pytest.mark.parametrize("mode", ["train", "sample"])
@pytest.mark.parametrize("change", [without_optimizer_key, without_section, with_more])
def test_a_folder_of_another_version_goes_on(
    run: Path, capsys: pytest.CaptureFixture[str], mode: str, change: Edit
) -> None:
    edit(run, change)
    assert main([CONFIG, f"--workdir={run}", f"--mode={mode}", "--config.report=None"]) == 0
    assert "training is finished" in capsys.readouterr().out or mode == "sample"


@pytest.mark.parametrize("mode", ["train", "sample"])
def test_and_is_refused_where_the_default_is_not_what_is_asked_for(
    run: Path, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    edit(run, without_optimizer_key)
    assert main([CONFIG, f"--workdir={run}", f"--mode={mode}", "--config.train.optimizer.b1=0.5"]) == 2
    assert capsys.readouterr().err == (
        f"error: --workdir={run} was trained with another config: train.optimizer.b1 is 0.9 there, 0.5 here;"
        " name another --workdir, or go on with --config.train.optimizer.b1=0.9\n"
    )


def test_the_dtype_of_decoding_binds_no_run(tmp_path: Path) -> None:
    recorded = plain(load_config(str(CONFIGS / "imagenet256.py")))
    recorded["codec"].pop("decode_dtype", None)  # as before there was the key
    (tmp_path / "config.json").write_text(json.dumps(recorded))
    for word in ("float32", "bfloat16"):
        ours = copy.deepcopy(recorded)
        ours["codec"]["decode_dtype"] = word
        check_config(tmp_path, ours)
    ours["codec"]["dtype"] = "float32"
    with pytest.raises(UserError, match=r"codec\.dtype is 'bfloat16' there, 'float32' here"):
        check_config(tmp_path, ours)


def test_where_pictures_and_captions_are_binds_no_run(tmp_path: Path) -> None:
    """Which they are their fingerprint tells."""
    recorded = plain(load_config(str(CONFIGS / "imagenet256.py")))
    keys = ("path", "captions", "validation", "validation_captions")
    recorded["dataset"] = {"name": "captioned", "bins": False, **dict.fromkeys(keys, "here")}
    (tmp_path / "config.json").write_text(json.dumps(recorded))
    check_config(tmp_path, recorded | {"dataset": recorded["dataset"] | dict.fromkeys(keys, "there")})
    with pytest.raises(UserError, match=r"dataset\.bins is False there, True here"):
        check_config(tmp_path, recorded | {"dataset": recorded["dataset"] | {"bins": True}})


@pytest.mark.parametrize("junk", ["[]", "3", "null", "[" * 100_000])
def test_a_record_that_is_no_config_is_refused(run: Path, junk: str) -> None:
    (run / "config.json").write_text(junk)
    with pytest.raises(
        UserError, match=r"config\.json (holds no config|cannot be read \(.*\)); name another --workdir$"
    ):
        check_config(run, plain(load_config(FILE)))


@pytest.mark.parametrize("section", ["model", "train", "codec", "dataset"])
def test_a_section_of_a_record_that_is_none_differs(run: Path, section: str) -> None:
    edit(run, lambda recorded: recorded.update({section: 3}))
    with pytest.raises(UserError, match=f"trained with another config: {section}[. ]"):
        check_config(run, plain(load_config(FILE)))


def test_a_flag_that_would_say_something_else_is_not_named(run: Path) -> None:
    """Where the config has (1, 2, 2), a flag makes a recorded 2 into (2,)."""
    ours = plain(load_config(FILE))
    (run / "config.json").write_text(json.dumps(ours))
    ours["model"]["patch"] = [1, 2, 2]
    with pytest.raises(UserError, match=r"model\.patch is 2 there, \[1, 2, 2\] here; .*, or go back to that value$"):
        check_config(run, ours)


@pytest.mark.parametrize(
    ("section", "value", "flag"),
    [
        (("train", "batch"), 32, "go on with --config.train.batch=16"),
        (("model", "latent"), [1, 16, 8, 1], "go on with '--config.model.latent=[1, 8, 8, 1]'"),
        (("train", "stages", 1, "learning_rate"), 1.0, "go on with '--config.train.stages[1].learning_rate=0.001'"),
        (("dataset", "name"), "folder", "go on with --config.dataset.name=digits"),
        (("model", "learn_variance"), False, "go on with --config.model.learn_variance=False"),
        (("text", "length"), 7, "go back to that value"),
        (("model", "zzz"), 7, "go back to that value"),  # which nobody reads
        (("model", "patch"), [1, 2, 2], "go back to that value"),  # which a flag would have to write in another way
        (("train", "stages", 1, "patches"), None, "go back to that value"),  # there was no second stage
    ],
)
def test_a_refusal_ends_with_the_flag_that_restores(
    run: Path, section: tuple[Any, ...], value: object, flag: str
) -> None:
    """A flag sets what stands in a section that the config has; elsewhere the value is named alone."""
    ours = plain(load_config(FILE))
    theirs = copy.deepcopy(ours)
    if section[1] == "stages" and value is None:
        del theirs["train"]["stages"][1]
    elif section in (("model", "learn_variance"), ("model", "zzz"), ("text", "length"), ("model", "patch")):
        theirs.setdefault(section[0], {})[section[1]] = value
    else:
        node = ours
        for key in section[:-1]:
            node = node[key]
        node[section[-1]] = value
    (run / "config.json").write_text(json.dumps(theirs))
    with pytest.raises(UserError) as caught:
        check_config(run, ours, build_experiment(load_config(FILE)).defaults)
    assert str(caught.value).endswith(f"; name another --workdir, or {flag}")
