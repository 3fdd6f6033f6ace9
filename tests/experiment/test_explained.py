"""Every key of every shipped config has a sentence, from the docstring of whoever reads it."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from flexidit_jax.common.config import leaves, load_config
from flexidit_jax.common.errors import UserError
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.explained import explained
from flexidit_jax.jobs import convert
from flexidit_jax.main import _modes, main

CONFIGS = Path(__file__).parents[2] / "configs"


def variants() -> list[str]:
    """Every config that there is, by what `--config` takes."""
    found = []
    for file in sorted(CONFIGS.glob("*.py")):
        config = runpy.run_path(str(file))
        takes = "variant" in config["get_config"].__annotations__
        known = config.get("VARIANTS", ("", "smoke")) if takes else ("",)
        found += [f"{file}:{variant}" if variant else str(file) for variant in known]
    return found


@pytest.mark.parametrize("spec", variants(), ids=lambda spec: Path(spec).name)
def test_every_key_has_a_sentence(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(spec)
    (tmp_path / "images" / "cat").mkdir(parents=True)  # that a config may count
    (tmp_path / "images" / "cat" / "1.png").touch()
    monkeypatch.chdir(tmp_path)
    said, refused = explained(config, convert.check if "convert" in config else build_experiment)
    assert refused is None
    assert list(said) == [key for key, _ in leaves(config)]
    assert [key for key, sentence in said.items() if len(sentence) < 6 or sentence.startswith("see ")] == []


def test_sentences_are_those_of_the_reader() -> None:
    said, _ = explained(load_config(str(CONFIGS / "digits_adapters.py")), build_experiment)
    assert said["sample.budget"].startswith("share of the FLOPs of running every step powerful with the same")
    assert said["model.depth"] == "blocks"  # of the class that `build_dit` returns
    assert said["train.stages[1].adapters"].startswith("None trains all weights")
    assert said["report.solvers[0].weak"].startswith("dicts of `solver`, `steps` and `weak`")  # of its list
    assert said["process.name"] == "Gaussian diffusion whose network predicts eps."


def test_a_key_that_nobody_speaks_of_has_none() -> None:
    config = load_config(f"{CONFIGS / 'digits.py'}:smoke")
    config.sample.qqq = 3
    said, refused = explained(config, build_experiment)
    assert said["sample.qqq"] == ""
    assert isinstance(refused, UserError)
    assert str(refused).startswith("unknown config key 'sample.qqq'; known: ")


def test_help_lists_modes_and_keys(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    for mode in _modes():
        (line,) = (line for line in out.splitlines() if line.startswith(f"  {mode} "))
        assert len(line.split()) > 4 and "--mode" not in line
    assert main([f"--config={CONFIGS / 'digits.py'}", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index("  --config.train.batch=64") + 1] == "        records per step, over all devices"
    assert main([f"--config={CONFIGS / 'convert.py'}", "--help"]) == 0
    assert "  --config.convert.source=None\n        anything `load` reads" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_help_of_a_config_that_is_refused_ends_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"--config={CONFIGS / 'digits.py'}:smoke", "--help", "--config.model.num_heads=5"]) == 2
    said = capsys.readouterr()
    assert "  --config.model.num_heads=5\n        attention heads" in said.out
    assert said.err.startswith("error: model.width must be a multiple of 4")
