"""A SiT through all of the house: sampled, flexified, adapted, trained, saved, exported, searched."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flexidit_jax as fd
from flexidit_jax.common.config import load_config
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.trees import flatten
from flexidit_jax.diffusion import sit
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.main import main
from flexidit_jax.models.build import init
from flexidit_jax.models.flexify import at, flexify
from flexidit_jax.programs import serve_exported
from flexidit_jax.training.losses import distillation, flow
from flexidit_jax.training.optimizer import Ema
from flexidit_jax.training.stages import Stage
from flexidit_jax.training.state import first_state
from flexidit_jax.training.step import make_step
from flexidit_jax.training.updates import Updates

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "dit_tiny.safetensors"
P2, P4 = (1, 2, 2), (1, 4, 4)
LABELS = [8, 4, 7]
WORDS = {"steps": 4, "solver": "euler", "guidance": 1.5, "guidance_channels": 3, "decode": False, "progress": False}


@pytest.fixture(scope="module")
def plain() -> fd.FlexiDiT:
    """The golden DiT taken for a SiT, with 2C channels."""
    return fd.load(GOLDEN, process="sit")


@pytest.fixture(scope="module")
def drawn(plain: fd.FlexiDiT) -> np.ndarray:
    return plain.sample(LABELS, **WORDS)


# ---------------------------------------------------------------- A model


def test_weak_modes_and_the_powerful_one_as_it_was(plain: fd.FlexiDiT, drawn: np.ndarray) -> None:
    for adapters in (None, 2):
        both = plain.flexify((2, 4), adapters)
        assert both.process == plain.process and both.patches == (P2, P4)
        np.testing.assert_allclose(both.sample(LABELS, **WORDS), drawn, rtol=0, atol=1e-5)
        mixed = both.sample(LABELS, **WORDS, schedule="4:2,2:2", guide="4:4")
        assert np.isfinite(mixed).all() and np.abs(mixed - drawn).max() > 0.01
        assert str(both.plan(steps=4, solver="euler", guidance=1.5, budget=0.7)).startswith("4:")


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_the_half_that_is_none_cannot_poison_a_sample(plain: fd.FlexiDiT, drawn: np.ndarray, poison: float) -> None:
    bias = np.array(plain.params["tokens"]["deembed"]["bias"])
    bias[..., bias.shape[-1] // 2 :] = poison
    tokens = {**plain.params["tokens"], "deembed": {**plain.params["tokens"]["deembed"], "bias": bias}}
    poisoned = dataclasses.replace(plain, params={**plain.params, "tokens": tokens})
    np.testing.assert_array_equal(poisoned.sample(LABELS, **WORDS), drawn)


def test_an_interval_of_guidance_is_of_the_times_it_is_told(plain: fd.FlexiDiT) -> None:
    words = {"steps": 10, "solver": "euler", "guidance": 2.0}
    plan = plain.plan(**words, guidance_interval=(0.15, 0.55))  # times 0, 0.1, ..., 0.9, noise first
    assert [segment.scale for segment in plan.segments for _ in range(segment.start, segment.stop)] == (
        [1.0] * 2 + [2.0] * 4 + [1.0] * 4
    )
    with pytest.raises(UserError) as caught:
        plain.plan(**words, guidance_interval=(0.2, 700))
    assert str(caught.value) == "guidance_interval=(0.2, 700) must lie in 0..1, the times of the sit process"


@pytest.mark.parametrize("name", ["published.safetensors", "diffusers"])
def test_exported_weights_are_a_sit_to_whoever_says_so(
    plain: fd.FlexiDiT, drawn: np.ndarray, tmp_path: Path, name: str
) -> None:
    plain.export(tmp_path / name)
    again = fd.load(tmp_path / name, process="sit")
    assert again.process == plain.process
    np.testing.assert_array_equal(again.sample(LABELS, **WORDS), drawn)


def test_a_saved_one_records_what_it_is(plain: fd.FlexiDiT, tmp_path: Path) -> None:
    both = plain.flexify((2, 4))
    both.save(tmp_path)
    again = fd.load(tmp_path)
    assert again.process == sit.Process()
    words = {**WORDS, "schedule": "4:2,2:2"}
    np.testing.assert_array_equal(again.sample(LABELS, **words), both.sample(LABELS, **words))
    with pytest.raises(
        UserError, match=r"records the process \{'name': 'sit', .* but \{'name': 'gaussian', .* is asked for"
    ):
        fd.load(tmp_path, process="gaussian")


# ---------------------------------------------------------------- A step of training


@pytest.mark.parametrize(
    ("loss", "adapters"), [(flow.Loss(), None), (distillation.Loss(), 2)], ids=["flow", "adapters"]
)
def test_the_half_that_is_none_has_no_gradient(plain: fd.FlexiDiT, loss: Any, adapters: int | None) -> None:
    stage, optimizer = Stage((P2, P4), 5, adapters=adapters), optax.sgd(1.0)
    trained = at(plain.flexify((2, 4)).params, P2)
    state = jax.jit(lambda: first_state(trained, stage, optimizer))()
    rng = np.random.default_rng(0)
    shaken = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), state.params)
    state = state.replace(params=shaken)
    step = make_step(plain.model, plain.process, loss, optimizer, Ema(0.5), 0, {P4: (0.0, 0.25)})
    x0 = jnp.asarray(rng.normal(size=(4, *plain.model.latent)), jnp.float32)
    cond = plain.model.conditioner.parse([0, 1, 2, None])
    after, metrics = step(jax.tree.map(jnp.copy, state), x0, cond, 0, P4, Updates(*[np.int32(0)] * 3))
    assert "variance_gap" not in metrics
    np.testing.assert_array_equal(metrics["quartile_counts"], [4, 0, 0, 0])  # near the data, whatever it is told
    before, moved = flatten(state.params), flatten(after.params)
    channels, last = plain.model.latent[-1], [path for path in moved if "deembed" in path and "lora" not in path]
    assert last
    for path in last:
        assert moved[path].shape[-1] == 2 * channels
        np.testing.assert_array_equal(moved[path][..., channels:], before[path][..., channels:])
    assert any(np.abs(moved[path] - before[path])[..., :channels].max() > 1e-4 for path in last)


def test_the_exact_velocity_costs_nothing() -> None:
    process, x0 = sit.Process(), jnp.full((8, 1, 2, 2, 3), 0.5)

    def predict(x: Any, t: Any, cond: Any) -> Any:
        return (0.5 - x) / (1 - t).reshape(-1, 1, 1, 1, 1), None  # x0 - noise, where x0 is known

    for times in ("uniform", "logit_normal"):
        t, noise = flow.Loss(times).draw(process, jax.random.key(0), x0.shape)
        np.testing.assert_allclose(flow.Loss(times)(process, predict, predict, x0, None, t, noise)[0], 0, atol=1e-6)


# ---------------------------------------------------------------- A run


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    """`digits.py:smoke` made a SiT that starts from a weight file, which nothing but the config says."""
    folder = tmp_path_factory.mktemp("config")
    file = folder / "config.py"
    file.write_text(
        "import runpy\n\n\n"
        "def get_config():\n"
        f"    config = runpy.run_path({str(ROOT / 'configs' / 'digits.py')!r})['get_config']('smoke')\n"
        f"    config.init_from = {str(folder / 'weights.safetensors')!r}\n"
        "    config.process = {'name': 'sit'}\n"
        "    config.train.loss = {'name': 'flow'}\n"
        "    config.train.stages = ({'patches': (2, 4), 'steps': 3, 'learning_rate': 1e-2},)\n"
        "    config.train.batch = 8\n"
        "    config.sample.solver = 'heun'\n"
        "    config.report = config.evaluate = None\n"
        "    config.search = {'budgets': (0.7,), 'records': 8}\n"
        "    config.export = {'platforms': ('cpu',), 'pairs': ('2', '4')}\n"
        "    return config\n"
    )
    model = build_experiment(load_config(str(file))).model
    rng = np.random.default_rng(0)
    first = init(model, jax.random.key(0))
    random = jax.tree.map(lambda leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), first)
    fd.FlexiDiT(model, flexify(random, [model.base_patch]), sit.Process(), None).export(folder / "weights.safetensors")
    return str(file)


@pytest.fixture(scope="module")
def run(config: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("runs") / "one"
    assert main([f"--config={config}", f"--workdir={workdir}", "--config.train.ema.decay=0.5"]) == 0
    return workdir


def test_a_run_trains_one_half(config: str, run: Path) -> None:
    trained, begun = fd.load(run), fd.load(load_config(config).init_from, num_heads=4, process="sit")
    assert trained.process == begun.process == sit.Process() and trained.model.learn_variance
    for leaf in ("kernel", "bias"):
        ours, theirs = (at(flex.params, P2)["deembed"][leaf] for flex in (trained, begun))
        np.testing.assert_allclose(ours[..., 1:], theirs[..., 1:], rtol=1e-6)  # an average of what did not move
        assert np.abs(ours - theirs)[..., :1].max() > 1e-4
    assert fd.load(run, process="sit").process == sit.Process()
    with pytest.raises(UserError, match=r"records the process \{'name': 'sit', 'shift': 1\.0\}, but \{'name': 'flow'"):
        fd.load(run, process="flow")


def test_training_goes_on_with_the_process_of_init_from_alone(
    config: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"--config={config}", f"--workdir={tmp_path / 'new'}", f"--config.init_from={run}"]
    words += ["--config.process.name=flow", "--config.model.learn_variance=False"]
    assert main(words) == 2
    assert f"error: init_from={run} " in capsys.readouterr().err


def test_its_jobs(config: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"--config={config}", f"--workdir={run}", "--config.train.ema.decay=0.5"]
    assert main([*words, "--mode=sample", "--config.sample.budget=0.7"]) == 0
    assert re.search(r"^schedule: 4:\d,2:\d; guide: none; guidance: 1\.0 .*$", capsys.readouterr().out, re.MULTILINE)
    assert main([*words, "--mode=search"]) == 0
    assert (run / "search" / "search.json").is_file()
    assert main([*words, "--mode=export", f"--config.export.out={tmp_path / 'exported'}"]) == 0
    served = serve_exported.sample(tmp_path / "exported", [1, None], schedule="4:2,2:2")
    ours = fd.load(run).sample(
        [1, None], steps=4, solver="heun", guidance=1.0, schedule="4:2,2:2", decode=False, progress=False
    )
    np.testing.assert_allclose(served[:, 0], ours, rtol=0, atol=1e-5 * np.abs(ours).max())
