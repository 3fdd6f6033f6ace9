"""Exports of a model of texts: what blocks read is made by a program of its own, once for all steps."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.programs import serve_exported
from flexidit_jax.programs.bundle import Export, write_exported

GOLDEN = Path(__file__).parents[1] / "golden"
WORDS = {"schedule": "4:1,2:2", "guide": "none:1,4:1,2:1", "guidance": 2.0, "seed": 3}


def moved(flex: fd.FlexiDiT, adapters: int | None, **conditioner: Any) -> fd.FlexiDiT:
    """Modes 2 and 4, every leaf off zero, no text being two tokens; half as high as the file's own size."""
    model = flex.model.clone(conditioner=flex.model.conditioner.clone(length=4, null_length=2))
    trunk = flex.params["trunk"]
    trunk = {**trunk, "conditioner": {**trunk["conditioner"], "null": np.ones((2, 24), np.float32)}}
    flex = replace(flex, model=model, params={**flex.params, "trunk": trunk}).flexify((2, 4), adapters=adapters)
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + 0.05 * rng.normal(size=leaf.shape).astype(np.float32), flex.params)
    return replace(flex, params=params).sized((1, 8, 16, 4))


@pytest.mark.parametrize(("name", "adapters"), [("pixart_tiny", None), ("pixart_micro_tiny", 2)])
def test_an_export_of_texts_samples(name: str, adapters: int | None, tmp_path: Path) -> None:
    flex, folder = moved(fd.load(GOLDEN / f"{name}.safetensors"), adapters), tmp_path / "out"
    section = Export(platforms=("cpu",), pairs=("2+2", "2+4", "4"), tables=({"solver": "ddim", "steps": 3},))
    write_exported(flex, section, section.solver_tables(flex.process, fd.SampleSpec()), folder)
    rng = np.random.default_rng(1)
    texts = [rng.normal(size=(n, 24)).astype(np.float32) for n in (4, 1)]
    cond, away = flex.model.conditioner.parse([*texts, None]), flex.model.conditioner.parse(texts[:1])
    if "micro" in name:
        cond["resolution"][1], cond["aspect_ratio"][1] = (512, 768), 0.67
    for negative in (None, away):
        ours = flex.sample(cond, negative=negative, solver="ddim", steps=3, decode=False, progress=False, **WORDS)
        served = serve_exported.sample(folder, cond, negative, **WORDS)[:, 0]
        assert served.shape == (3, 8, 16, 4)
        np.testing.assert_allclose(served, ours, rtol=0, atol=1e-5 * np.abs(ours).max())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["modulated"] == ("micro" in name)
    kept = manifest["kept"]
    assert kept["2"]["weights"] == kept["4"]["weights"]  # cross-attention is that of all modes
    assert {name.split("/")[-2] for name in kept["2"]["weights"] if "cross_attention" in name} == {"k", "v"}
    for entry in (one for kind in ("programs", "modulations") for one in manifest[kind].values()):
        assert not any("cross_attention/k/" in name for name in entry.get("weights", ()))
