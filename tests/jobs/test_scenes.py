"""`configs/scenes.py`: texts from captions to pictures that are read back, and all that lies between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import flexidit_jax as fd
from flexidit_jax.common.trees import flatten
from flexidit_jax.data.text_features import TextFeatures
from flexidit_jax.main import main
from flexidit_jax.models.flexify import at
from flexidit_jax.text.hashed_words import Encoder

ROOT = Path(__file__).parents[2]
SMALL = [f"--config={ROOT / 'configs' / 'scenes.py'}:smoke", "--config.train.keep=9"]
CAPTION = "a bold three left of a faint seven"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run, report included. Do not write into it."""
    workdir = tmp_path_factory.mktemp("scenes") / "run"
    assert main([*SMALL, f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture(scope="module")
def report(run: Path) -> dict[str, Any]:
    return json.loads((run / "report" / "report.json").read_text())


def test_the_base_stays_to_the_bit(run: Path) -> None:
    before, after = fd.load(run / "checkpoints" / "6"), fd.load(run)
    assert (len(before.patches), len(after.patches)) == (1, 2)
    theirs, ours = (flatten(jax.device_get(at(flex.params, flex.patches[0]))) for flex in (before, after))
    assert theirs.keys() == ours.keys() and all(np.array_equal(theirs[key], ours[key]) for key in ours)


def test_the_report_scores_captions(report: dict[str, Any], run: Path) -> None:
    assert report["captions"] == {"count": 100, "unseen": 16, "parts": 2}
    assert [(row["schedule"], row["guidance"]) for row in report["points"]] == [
        *(("2:4", 1.0), ("4:2,2:2", 1.0), ("4:4", 1.0)),
        *(("2:2,4:2", 1.0), ("2:2", 1.0)),
        *(("2:4", 1.5), ("4:2,2:2", 1.5), ("4:4", 1.5)),
    ]
    full, weak, *_ = report["points"]
    assert full["against_full"] == dict.fromkeys(full["against_full"], 0.0)
    assert {"accuracy", "accuracy_error", "accuracy_unseen", "accuracy_unseen_error"} < {*weak["against_full"]}
    assert len(weak["fd_by_seed"]) == 2 and len(report["points"][-1]["fd_by_seed"]) == 1
    assert report["classifier_accuracy"] > 0.9
    for name in ("quality_vs_compute", "samples", "guidance_front"):
        with Image.open(run / "report" / f"{name}.png") as image:
            image.load()


def test_a_saved_model_brings_its_words(run: Path, tmp_path: Path) -> None:
    flex = fd.load(run)
    assert flex.text == Encoder(length=9, width=256)
    flex.save(tmp_path / "saved")
    again, spec = fd.load(tmp_path / "saved"), fd.SampleSpec(steps=2, guidance=1.5, solver="ddim", seed=0)
    assert again.text == flex.text
    image = flex.sample([CAPTION], spec=spec)
    assert image.shape == (1, 8, 16, 1)
    np.testing.assert_array_equal(again.sample([CAPTION], spec=spec), image)
    np.testing.assert_array_equal(flex.sample(flex.features([CAPTION]), spec=spec), image)
    null = flex.params["trunk"]["conditioner"]["null"]
    np.testing.assert_array_equal(null[0], flex.text.encode([""])["tokens"][0, 0])


def test_prompts_are_kept_and_drawn(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SMALL, f"--workdir={run}"]
    assert main([*words, "--mode=encode", f"--prompts={CAPTION}", f"--out={tmp_path / 'texts'}"]) == 0
    [features] = TextFeatures(tmp_path / "texts")
    np.testing.assert_allclose(features, fd.load(run).features([CAPTION])[0], atol=2e-3)  # float16
    high = ["--config.sample.size=16,8", "--config.sample.files.npz=True", f"--out={tmp_path / 'high'}"]
    assert main([*words, "--mode=sample", "--prompts=a faint two above a bold five", *high]) == 0
    assert np.load(tmp_path / "high" / "samples.npz")["arr_0"].shape == (2, 16, 8, 1)


def test_captions_are_scored_without_a_report(run: Path, tmp_path: Path) -> None:
    words = ["--mode=evaluate", f"--out={tmp_path}", "--config.sample.steps=1", "--config.sample.guidance=1.0"]
    assert main([*SMALL, f"--workdir={run}", *words, "--config.sample.budget=None"]) == 0
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert {"fd", "accuracy", "accuracy_unseen", "nearest"} < {*found}


def test_a_search_wants_classes(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "searched.py"
    file.write_text(
        "import runpy\n\n\n"
        "def get_config():\n"
        f"    config = runpy.run_path({str(ROOT / 'configs' / 'scenes.py')!r})['get_config']('smoke')\n"
        "    config.search = {'budgets': (0.5,)}\n"
        "    return config\n"
    )
    assert main([f"--config={file}", f"--workdir={run}", "--mode=search"]) == 2
    assert capsys.readouterr().err.endswith(
        "error: search draws samples of classes, and this dataset has none; --mode=report draws captions\n"
    )
