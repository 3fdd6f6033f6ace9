"""Scores want images to compare with: where there are none, that is said before anything is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexidit_jax.data import digits, folder
from flexidit_jax.main import main
from flexidit_jax.sampling import mode_gap as gaps
from flexidit_jax.sampling.engine import Engine

SMOKE = f"--config={Path(__file__).parents[2] / 'configs' / 'digits.py'}:smoke"


@pytest.mark.parametrize("mode", ["evaluate", "search", "report"])
@pytest.mark.parametrize("missing", ["held-out images", "features"])
def test_what_scores_want_is_looked_for_before_anything_is_drawn(
    smoke_run: Path,
    tmp_path: Path,
    quiet: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    mode: str,
    missing: str,
) -> None:
    (tmp_path / "images" / "cat").mkdir(parents=True)
    (tmp_path / "images" / "cat" / "1.png").touch()
    bare = folder.Dataset(path=str(tmp_path / "images"), size=8, classes=1)  # nothing kept from training
    words = []
    if missing == "features":
        words = ["--config.evaluate.features.name=nobody"]
        says = "no 'nobody' in features/; known: clip, dinov2, inception, mlp_classifier"
    else:
        monkeypatch.setattr(digits.Dataset, "held_out", lambda self: bare.held_out())
        says = (
            f"no image of {tmp_path / 'images'} is kept from training (dataset.held_out_share=0); set that to a larger"
            " share, or dataset.validation to a folder of the same class folders"
        )
    monkeypatch.setattr(Engine, "run", lambda *args, **kwargs: pytest.fail("drawn"))
    monkeypatch.setattr(gaps, "measure", lambda *args, **kwargs: pytest.fail("measured"))
    config = SMOKE if mode == "report" else quiet
    assert main([config, f"--workdir={smoke_run}", f"--mode={mode}", *words]) == 2
    assert capsys.readouterr().err == f"error: {says}\n"
