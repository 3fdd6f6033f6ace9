"""What was saved, recorded and said before means the same now (see golden/README.md)."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.common import build
from flexidit_jax.common.config import load_config, plain
from flexidit_jax.common.trees import flatten
from flexidit_jax.main import main
from flexidit_jax.models.build import MACHINE, build_dit, describe
from flexidit_jax.training.updates import Updates

ROOT = Path(__file__).parents[1]
BEFORE = ROOT / "tests" / "golden" / "before"
TREES: dict[str, Any] = json.loads((BEFORE / "trees.json").read_text())
WORDS: list[dict[str, Any]] = json.loads((BEFORE / "words.json").read_text())
for _row in WORDS:
    _row["words"] = {key: tuple(word) if isinstance(word, list) else word for key, word in _row["words"].items()}
SAMPLED = {"steps": 4, "budget": 0.7, "guidance": 1.5, "seed": 3, "decode": False, "progress": False}
#: of the run, beside the config and the folder
FLAGS = [
    f"--config={ROOT / 'configs' / 'digits.py'}:smoke",
    *(f"--config.model.{key}" for key in ("width=16", "depth=1", "num_heads=2", "unroll=1")),
    *(f"--config.train.{key}" for key in ("keep=1", "batch=8", "workers=0")),
    "--config.report=None",
    "--config.search=None",
]


@pytest.fixture(scope="session")
def models(dit: fd.FlexiDiT) -> dict[str, fd.FlexiDiT]:
    return {
        "plain": dit,
        "two": dit.flexify((2, 4)),
        "three": dit.flexify((2, 4, 8)),
        "adapters": dit.flexify((2, 4), adapters=2),
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    shutil.unpack_archive(BEFORE / "run.tar.gz", tmp_path)
    return tmp_path / "run"


# ---------------------------------------------------------------- Parameter paths and descriptions


@pytest.mark.parametrize("name", [name for name in TREES if not name.endswith(".py")])
def test_parameter_paths_and_shapes(models: dict[str, fd.FlexiDiT], name: str) -> None:
    assert {path: list(leaf.shape) for path, leaf in flatten(models[name].params).items()} == TREES[name]["parameters"]


@pytest.mark.parametrize("name", TREES)
def test_what_a_model_is_recorded_as_keeps_its_keys(models: dict[str, fd.FlexiDiT], name: str) -> None:
    """But for what was said of the machine, which is no longer read."""
    if name.endswith(".py"):
        section = plain(load_config(str(ROOT / "configs" / name)))["model"]
        model = build.call(build_dit, section, "model")
    else:
        model = models[name].model
    said = json.loads(json.dumps(describe(model)))
    conditioner = said.pop("conditioner")
    before = {key: value for key, value in TREES[name]["describe"].items() if key not in MACHINE}
    recorded = before.pop("conditioner")
    assert {key: said[key] for key in before} == before
    assert {key: conditioner[key] for key in recorded} == recorded


# ---------------------------------------------------------------- Words


def identity(row: dict[str, Any]) -> str:
    return f"{row['model']}-{row['words']}"


@pytest.mark.parametrize("row", [row for row in WORDS if "plan" in row], ids=identity)
def test_words_make_the_same_plan(models: dict[str, fd.FlexiDiT], row: dict[str, Any]) -> None:
    flex = models[row["model"]]
    plan, flops = flex.plan(**row["words"]), flex.flops(**row["words"])
    assert str(plan) == row["plan"]
    assert [
        [s.start, s.stop, list(s.cond_patch), s.guide_patch and list(s.guide_patch), s.scale] for s in plan.segments
    ] == row["segments"]
    calls = row["evaluations"]
    assert list(plan.evaluations) == ([1] * calls if isinstance(calls, int) else calls)
    assert flops.total == row["flops"]
    assert flops.relative == pytest.approx(row["relative"], rel=1e-12)


@pytest.mark.parametrize("row", [row for row in WORDS if "refused" in row], ids=identity)
def test_words_are_refused_in_the_same_line(models: dict[str, fd.FlexiDiT], row: dict[str, Any]) -> None:
    with pytest.raises(fd.UserError) as caught:
        models[row["model"]].plan(**row["words"])
    assert str(caught.value).removesuffix("; known: grid") == row["refused"]  # a key that ddim has since


@pytest.mark.parametrize("row", [row for row in WORDS if "sample_refused" in row], ids=identity)
def test_sample_refuses_in_the_same_line(models: dict[str, fd.FlexiDiT], row: dict[str, Any]) -> None:
    with pytest.raises(fd.UserError) as caught:
        models[row["model"]].sample([0, 1], decode=False, progress=False, **row["words"])
    assert str(caught.value) == row["sample_refused"]


# ---------------------------------------------------------------- Folders


def close(found: np.ndarray, before: np.ndarray) -> None:
    np.testing.assert_allclose(found, before, rtol=0, atol=2e-5 * np.abs(before).max())


@pytest.mark.parametrize("of", ["run", "saved"])
def test_a_model_of_before_samples_the_same(run: Path, of: str) -> None:
    flex = fd.load({"run": run, "saved": BEFORE / "saved"}[of])
    close(flex.sample([0, 1], **SAMPLED), np.load(BEFORE / "samples.npz")["stopped"])


class CountedAlike:
    """Updates as they were counted before: the steps of the stage, here six, for all leaves."""

    def __init__(self, stages: Any, seed: int, done: int) -> None:
        self.within = done - 6

    def next(self, patch: Any) -> Updates:
        self.within += 1
        return Updates(*[np.int32(self.within - 1)] * 3)


@pytest.mark.slow
@pytest.mark.parametrize("alike", [True, False], ids=["counted as before", "counted by mode"])
def test_a_run_of_before_goes_on(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, alike: bool
) -> None:
    """To the same end, but for the updates of each mode, which Adam and the average go by since."""
    if alike:
        monkeypatch.setattr("flexidit_jax.jobs.train.UpdateCounts", CountedAlike)
    assert main([*FLAGS, f"--workdir={run}"]) == 0
    said = capsys.readouterr().out
    assert "resuming after step 8 of 12" in said
    assert (
        "step 8 counted updates for all modes alike; from here on Adam and the average go by those of each mode" in said
    )
    ours, theirs = fd.load(run).sample([0, 1], **SAMPLED), np.load(BEFORE / "samples.npz")["finished"]
    if alike:
        close(ours, theirs)
    else:
        assert 1e-4 < np.abs(ours - theirs).max() / np.abs(theirs).max() < 1e-2


@pytest.mark.slow
def test_images_of_before_are_gone_on_with(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.unpack_archive(BEFORE / "generated.tar.gz", tmp_path)
    generate = [*FLAGS, f"--workdir={run}", "--mode=generate", "--num=8", f"--out={tmp_path / 'generated'}"]
    generate += ["--config.generate.shard=4", "--config.sample.batch=4"]
    assert main(generate) == 0
    assert "resuming, 4 of 8 images are there" in capsys.readouterr().out
    assert np.load(tmp_path / "generated" / "samples.npz")["arr_0"].shape == (8, 8, 8, 1)
    assert main([*generate, "--config.sample.seed=1"]) == 2
    assert "sample.seed is 0 there, 1 here" in capsys.readouterr().err
