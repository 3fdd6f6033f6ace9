"""The first parameters of a training: those of `init_from`, where it holds the model of the config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.common import build
from flexidit_jax.common.config import load_config
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.start import first_params
from flexidit_jax.models.build import build_dit, init
from flexidit_jax.models.flexify import flexify

SMOKE = f"{Path(__file__).parents[2] / 'configs' / 'digits.py'}:smoke"


def begun(source: Path) -> None:
    config = load_config(SMOKE)
    with config.ignore_type():
        config.init_from = str(source)
    first_params(build_experiment(config))


def saved(folder: Path, model: dict[str, Any], process: dict[str, Any]) -> Path:
    """A model of the config's sections but for what is said here."""
    config = load_config(SMOKE)
    sections = config.model.to_dict()
    sections["conditioner"] |= model.pop("conditioner", {})
    dit = build.call(build_dit, sections | model, "model")
    noise = build.part("flexidit_jax.diffusion", "Process", process or config.process.to_dict(), "process")
    shapes = jax.eval_shape(lambda: init(dit, jax.random.key(0)))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    fd.FlexiDiT(dit, flexify(params, [dit.patch]), noise, None).save(folder)
    return folder


@pytest.mark.parametrize(
    ("model", "process", "differs"),
    [
        ({"depth": 4}, {}, "model.depth is 4 there, 2 here"),
        ({"width": 64, "dtype": "bfloat16"}, {}, "model.width is 64 there, 32 here"),
        ({"num_heads": 2}, {}, "model.num_heads is 2 there, 4 here"),
        ({"mlp_ratio": 2}, {}, "model.mlp_ratio is 2 there, 4 here"),
        ({"patch": 4}, {}, "model.patch is [1, 4, 4] there, [1, 2, 2] here"),
        ({"learn_variance": False}, {}, "model.learn_variance is False there, True here"),
        ({"latent": (1, 8, 8, 4)}, {}, "model.latent is [1, 8, 8, 4] there, [1, 8, 8, 1] here"),
        (
            {"latent": (1, 16, 16, 1), "conditioner": {"classes": 12, "drop_rate": 0.5}},
            {},
            "model.conditioner.classes is 12 there, 10 here",
        ),
        ({}, {"name": "gaussian", "beta_end": 0.03}, "process.beta_end is 0.03 there, 0.02 here"),
        ({}, {"name": "flow"}, "process.name is 'flow' there, 'gaussian' here"),
    ],
)
def test_another_model_is_refused_by_the_key_that_differs(
    tmp_path: Path, model: dict[str, Any], process: dict[str, Any], differs: str
) -> None:
    source = saved(tmp_path / "source", model, process)
    with pytest.raises(fd.UserError) as caught:
        begun(source)
    assert str(caught.value) == (
        f"init_from={source} holds {fd.load(source)!r}, which is not the model of this config: {differs}"
    )


def test_what_parameters_serve_alike_is_no_other_model(tmp_path: Path) -> None:
    begun(saved(tmp_path / "source", {"latent": (1, 16, 16, 1), "dtype": "bfloat16", "unroll": 1}, {}))
