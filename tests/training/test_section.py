"""The `train` section: what it says of itself before a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexidit_jax.common.config import load_config, override, plain
from flexidit_jax.common.errors import UserError
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.main import main
from flexidit_jax.runs.binding import check_config
from flexidit_jax.training.optimizer import Ema

CONFIGS = Path(__file__).parents[2] / "configs"
ADAPTERS = str(CONFIGS / "imagenet256_adapters.py")


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize(("decay", "steps"), [(0.9, 30), (0.9999, 50), (0.5, 30), (0.5, 0)])
def test_what_is_left_of_the_start_is_what_the_average_holds(decay: float, steps: int, warmup: bool) -> None:
    average = 1.0  # of parameters that are zero ever after
    for step in range(steps):
        average *= min(decay, (1 + step) / (10 + step)) if warmup else decay
    assert Ema(decay, warmup).left_of_start(steps) == pytest.approx(average, rel=1e-9)


def lines(file: str, **keys: str) -> list[str]:
    config = load_config(file)
    for key, text in keys.items():
        override(config, key.replace("__", "."), text)
    return build_experiment(config).train.short_averages()


@pytest.mark.parametrize(
    "file", [file for file in CONFIGS.glob("*.py") if file.name != "convert.py"], ids=lambda f: f.name
)
def test_no_shipped_config_samples_from_its_start(file: Path) -> None:
    assert lines(str(file)) == []


def test_a_stage_too_short_for_its_average_is_told_with_the_number() -> None:
    (line,) = lines(ADAPTERS, train__ema__warmup="False")
    assert line == (
        "at the end of stage 1 the moving average still holds 61 % of what it began with, of the mode trained least"
        " (5000 steps, train.ema.decay=0.9999); set train.ema.warmup=True or a smaller decay"
    )
    assert len(lines(ADAPTERS, train__ema__warmup="False", train__ema__decay="0.999")) == 0  # 0.7 %
    assert "holds 2 %" in lines(ADAPTERS, train__ema__warmup="False", train__ema__decay="0.9992")[0]


def test_a_stage_that_goes_on_with_the_same_leaves_goes_on_with_their_average() -> None:
    config = load_config(str(CONFIGS / "digits.py"))
    config.train.ema.warmup = False
    rare = {"patches": (2, 4), "steps": 1500, "probabilities": (0.8, 0.2)}
    config.train.stages = ({"patches": (2,), "steps": 2500}, rare, {**rare, "probabilities": (0.2, 0.8)})
    found = build_experiment(config).train.short_averages()
    # 0.998 to the power of 300 draws of patch 4; then of 1500, as many as those of patch 2
    assert [line.split(" %")[0].rsplit(" ")[-1] for line in found] == ["55", "5"]


def test_of_several_modes_the_rarest_counts() -> None:
    digits = str(CONFIGS / "digits.py")
    (line,) = lines(digits, train__ema__warmup="False")
    assert "at the end of stage 2 the moving average still holds 8 %" in line  # 0.998^1250; of stage 1 0.7 %
    (line,) = lines(digits, **{"train.ema.warmup": "False", "train.stages[1].probabilities": "(0.9, 0.1)"})
    assert "at the end of stage 2 the moving average still holds 61 %" in line  # 0.998^250


@pytest.mark.slow
def test_a_run_says_it(tmp_path: Path, quiet: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([quiet, f"--workdir={tmp_path}", "--config.train.ema.warmup=False"]) == 0
    assert capsys.readouterr().out.count("warning: at the end of stage ") == 2


def test_a_folder_from_before_the_warm_up_names_the_flag_that_restores_it(tmp_path: Path) -> None:
    experiment = build_experiment(load_config(str(CONFIGS / "imagenet256.py")))
    recorded = plain(load_config(str(CONFIGS / "imagenet256.py")))
    del recorded["train"]["stages"][0]["warmup"]

    (tmp_path / "config.json").write_text(json.dumps(recorded))
    with pytest.raises(UserError, match=r"warmup is 0 there, 1000 here; .* '--config\.train\.stages\[0\]\.warmup=0'$"):
        check_config(tmp_path, experiment.raw, experiment.defaults)
