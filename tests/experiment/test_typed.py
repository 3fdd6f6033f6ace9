"""What is typed wins over what a config says, two that say the same are refused, what a job does not read is said."""

from __future__ import annotations

import ast
import importlib
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from flexidit_jax.common.config import leaves, load_config, override, plain
from flexidit_jax.common.errors import UserError
from flexidit_jax.experiment.experiment import Experiment, build_experiment
from flexidit_jax.experiment.sections import HOW, Sampling
from flexidit_jax.experiment.typed import let_win, unread_options
from flexidit_jax.main import main
from flexidit_jax.runs.binding import FREE

CONFIGS = Path(__file__).parents[2] / "configs"
FILE = f"{CONFIGS / 'digits.py'}:smoke"
JOBS = Path(__file__).parents[2] / "flexidit_jax" / "jobs"
OTHERS = set(Sampling.of_record({}).others)
MODES = [file.stem for file in sorted(JOBS.glob("*.py")) if file.stem != "__init__"]


def typed(file: str, *words: str) -> ConfigDict:
    config, keys = load_config(file), []
    for word in words:
        key, _, value = word.partition("=")
        override(config, key, value)
        keys.append(key)
    let_win(config, keys)
    return config


# ---------------------------------------------------------------- It wins


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["sample.schedule=4:2,2:2"], {"sample.schedule": "4:2,2:2", "sample.budget": None}),
        (["sample.latency_ms=5"], {"sample.latency_ms": 5, "sample.budget": None}),
        (["sample.schedule=None"], {"sample.schedule": None, "sample.budget": 0.56}),
        (["sample.budget=None", "sample.schedule=2:4"], {"sample.schedule": "2:4", "sample.budget": None}),
        (["sample.seed=3"], {"sample.budget": 0.56}),
        (["model.size=B"], {"model.size": "B", "model.width": None, "model.depth": None, "model.num_heads": None}),
        (["model.size=B", "model.depth=2"], {"model.size": "B", "model.width": None, "model.depth": 2}),
        (["model.size=None"], {"model.width": 32}),
    ],
)
def test_a_typed_key_puts_those_of_the_config_aside(words: list[str], wanted: dict[str, Any]) -> None:
    found = dict(leaves(typed(FILE, *words)))
    assert {key: found[key] for key in wanted} == wanted


@pytest.mark.parametrize("section", ["dataset", "dataset.of"])
def test_a_typed_validation_folder_puts_the_share_aside(tmp_path: Path, section: str) -> None:
    dataset = "{'name': 'folder', 'size': 8, 'path': 'a', 'classes': 1, 'validation': None, 'held_out_share': 0.1}"
    if section == "dataset.of":
        dataset = f"{{'name': 'latents', 'path': 'b', 'of': {dataset}}}"
    (tmp_path / "own.py").write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict({{'dataset': {dataset}, 'sample': {{'guide': '4:4'}}}})\n"
    )
    found = dict(leaves(typed(f"{tmp_path / 'own.py'}", f"{section}.validation=there", "sample.schedule=3/1")))
    assert (found[f"{section}.validation"], found[f"{section}.held_out_share"]) == ("there", 0.0)
    assert found["sample.guide"] is None  # x/y speaks for the guide too
    with pytest.raises(UserError) as caught:
        typed(f"{tmp_path / 'own.py'}", f"{section}.validation=there", f"{section}.held_out_share=0.2")
    flags = [f"--config.{section}.{key}" for key in ("validation=there", "held_out_share=0.2")]
    assert str(caught.value) == f"{' and '.join(flags)} speak of the same; give one of them"


def test_two_that_are_typed_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        typed(FILE, "sample.schedule=2:4", "sample.budget=0.5")
    flags = "--config.sample.budget=0.5 and --config.sample.schedule=2:4"
    assert str(caught.value) == f"{flags} speak of the same; give one of them"


def test_a_flag_and_its_key_that_differ_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = [f"--config={FILE}", f"--workdir={tmp_path / 'run'}", "--mode=generate", "--num=3"]
    assert main([*words, "--config.generate.num=4"]) == 2
    says = "--config.generate.num=4 and --num=3 say different things; give one of them"
    assert capsys.readouterr().err == f"error: {says}\n"


def test_a_width_of_zero_is_given() -> None:
    config = typed(FILE, "model.size=S", "model.width=0")
    with pytest.raises(UserError, match=r"^model\.width must be positive, got 0$"):
        build_experiment(config)


# ---------------------------------------------------------------- What a job reads


def named(source: str) -> tuple[set[str], set[str]]:
    """The sections that may change between two starts, and keys of `sample` beside those that say how, in a job."""
    attributes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
    sections = {node.attr for node in attributes if getattr(node.value, "id", None) == "experiment"} & FREE
    keys = set(re.findall(r"(?:asked|experiment\.sample)\.(\w+)", source)) & {
        "labels",
        "prompts",
        "images_per_prompt",
        "batch",
        "files",
        "preview_every",
    }
    keys |= set(re.findall(r"(?:asked|experiment\.sample)\.others\[\"(\w+)\"\]", source))
    return sections, keys | (OTHERS if "**asked.others" in source else set())


@pytest.mark.parametrize("mode", MODES)
def test_a_job_reads_what_it_says(mode: str) -> None:
    source = (JOBS / f"{mode}.py").read_text()
    reads = importlib.import_module(f"flexidit_jax.jobs.{mode}").READS
    sections, keys = named(source)
    if mode == "train":  # which runs the report at its end
        sections |= named((JOBS / "report.py").read_text())[0] | {"profile_at"}
    alone = {"init_from", "train", "convert", "reference"}  # read without the rest of an experiment
    assert {read.partition(".")[0] for read in reads} - alone == sections
    assert ("init_from" in reads) == bool(re.search(r"(trained_model|training_start)[(,]", source))
    if "sample" not in reads:
        assert {
            read.removeprefix("sample.") for read in reads if read.startswith("sample.") and read not in HOW
        } == keys


@pytest.mark.parametrize("mode", MODES)
def test_what_a_job_reads_are_keys(mode: str) -> None:
    reads = importlib.import_module(f"flexidit_jax.jobs.{mode}").READS
    known = {*Experiment.__annotations__, "convert", *(f"sample.{key}" for key in Sampling.__annotations__)}
    defaults = build_experiment(load_config(FILE)).defaults
    assert [read for read in reads if read not in known and read not in defaults and read not in HOW] == []


@pytest.mark.parametrize(
    ("mode", "words", "left"),
    [
        ("sample", "generate.num sample.budget init_from sample.files.npz", "generate.num"),
        ("sample", "train.stages[0].steps train.log_every dataset.path codec.path seed", "train.log_every"),
        (
            "generate",
            "sample.labels sample.preview_every sample.seed generate.num",
            "sample.labels sample.preview_every",
        ),
        (
            "train",
            "export.pairs export sample.labels train.keep sample.files.grid",
            "export.pairs export sample.files.grid",
        ),
        ("search", "sample.budget sample.solver.name sample.seed", "sample.budget sample.seed"),
        ("export", "sample.solver sample.solver.tau sample.guidance", "sample.guidance"),
        ("report", "sample.guidance report.seeds evaluate.samples report", "sample.guidance"),
        ("compile", "train.mesh.data sample.packing sample.files", "sample.files"),
        ("encode", "encode.out encoder init_from", "init_from"),
        ("convert", "convert.patches", ""),
    ],
)
def test_what_is_typed_for_another_job(mode: str, words: str, left: str) -> None:
    reads = importlib.import_module(f"flexidit_jax.jobs.{mode}").READS
    assert unread_options(words.split(), reads) == left.split()


def test_it_is_said_in_one_line(smoke_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"--config={FILE}", f"--workdir={smoke_run}", "--mode=generate", f"--out={tmp_path / 'out'}", "--num=2"]
    words += ["--config.sample.labels=3", "--config.report=None", "--config.train.keep=3"]
    assert main([*words, "--config.sample.batch=2"]) == 0
    flags = "--config.sample.labels=3, --config.report=None, --config.train.keep=3"
    first, *rest = capsys.readouterr().out.splitlines()
    assert first == f"--mode=generate does not read {flags}"
    assert not any("does not read" in line for line in rest)
    assert plain(load_config(FILE))["sample"]["labels"] == [0, 1, 2, 3]


# ---------------------------------------------------------------- What no step reads


@pytest.mark.parametrize("mode", ["sample", "generate"])
def test_words_of_a_config_that_no_step_reads_are_named(
    smoke_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    (tmp_path / "guided.py").write_text(
        "import runpy\n\n\n"
        "def get_config():\n"
        f"    config = runpy.run_path({str(CONFIGS / 'digits.py')!r})['get_config']('smoke')\n"
        "    config.sample.update(guidance=1.5, guidance_channels=1, guide='4:4', budget=None, labels=(0, 1))\n"
        "    config.sample.negative = 7\n"
        "    config.generate.num = 2\n"
        "    return config\n"
    )
    run = shutil.copytree(smoke_run, tmp_path / "run")
    words = [f"--config={tmp_path / 'guided.py'}", f"--workdir={run}", f"--mode={mode}"]
    assert main([*words, "--config.sample.guidance=1", "--config.sample.batch=2"]) == 0
    out = capsys.readouterr().out
    line = "read by no step: guide='4:4', guidance_channels=1, negative=7; guidance=1.0 runs no guide"
    assert out.splitlines()[0] == line
    assert "schedule: 2:4; guide: none; guidance: 1.0 (in Python 1.5 unless said)\n" in out


@pytest.mark.parametrize("mode", ["sample", "generate", "evaluate"])
def test_typed_they_are_refused(smoke_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], mode: str) -> None:
    words = [f"--config={FILE}", f"--workdir={smoke_run}", f"--mode={mode}", "--config.sample.guide=4:4"]
    out = [f"--out={tmp_path / 'out'}"] if mode == "generate" else []
    assert main([*words, *out]) == 2
    assert capsys.readouterr().err == (
        "error: sample.guide='4:4' is read by no step: guidance=1.0 runs no guide; change that, or leave sample.guide"
        " out\n"
    )
    assert not (tmp_path / "out").exists()
