"""Checkpoints: back to the bit, and a damaged one named instead of half read."""

from __future__ import annotations

import gc
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.common.config import load_config
from flexidit_jax.jobs.parts.experiment import Experiment, build_experiment
from flexidit_jax.models.dit import init
from flexidit_jax.training.checkpoint import Checkpoints, load_weights, read_meta
from flexidit_jax.training.newest import newest_step
from flexidit_jax.training.sharding import make_mesh, shaped
from flexidit_jax.training.state import TrainState, abstract

CONFIG = Path(__file__).parents[2] / "configs" / "digits.py"


@pytest.fixture(scope="module")
def smoke() -> Experiment:
    return build_experiment(load_config(f"{CONFIG}:smoke"))


@pytest.fixture(scope="module")
def target(smoke: Experiment) -> TrainState:
    """Shapes of the second stage's state."""
    stage = smoke.train.stages[1]
    optimizer = smoke.train.optimizer.build(stage.rate())
    return shaped(abstract(partial(init, smoke.model, jax.random.key(0)), stage, optimizer), make_mesh())


@pytest.fixture
def copy(smoke_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(smoke_run, tmp_path / "copy", symlinks=True)


@pytest.fixture
def checkpoints(tmp_path: Path) -> Iterator[Checkpoints]:
    opened = Checkpoints(tmp_path / "run", keep=2)
    yield opened
    opened.close()


def filled(target: TrainState, seed: int) -> TrainState:
    rng = np.random.default_rng(seed)

    def draw(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if jnp.issubdtype(leaf.dtype, jnp.integer):
            return jnp.asarray(rng.integers(1, 1000), leaf.dtype)
        return jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(draw, target)


def assert_same_bits(ours: Any, theirs: Any) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------- Round trip


def test_a_state_comes_back_to_the_bit(checkpoints: Checkpoints, target: TrainState) -> None:
    state = filled(target, 0)
    meta = {"stage": 1, "patches": [[1, 2, 2], [1, 4, 4]], "data": {"next_index": 7}, "config": {"seed": 0}}
    assert checkpoints.newest_whole() is None
    checkpoints.save(12, state, meta)
    checkpoints.wait()
    assert checkpoints.newest_whole() == 12
    assert checkpoints.meta(12) == {**meta, "stage_step": int(state.step)}
    assert_same_bits(checkpoints.restore(12, target), state)


def test_a_save_keeps_the_values_of_its_moment(checkpoints: Checkpoints, target: TrainState) -> None:
    state = filled(target, 1)
    before = jax.tree.map(np.array, state)
    checkpoints.save(1, state, {"stage": 0})
    jax.jit(lambda s: jax.tree.map(lambda leaf: leaf * 0, s), donate_argnums=0)(state)  # as the next step does
    checkpoints.wait()
    assert_same_bits(jax.tree.map(np.asarray, checkpoints.restore(1, target)), before)


def test_only_the_newest_are_kept(checkpoints: Checkpoints, target: TrainState) -> None:
    for number in (1, 2, 10):
        checkpoints.save(number, filled(target, number), {"stage": 0})
    checkpoints.wait()
    assert checkpoints.newest_whole() == 10
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["10", "2"]
    assert newest_step(checkpoints.folder.parent) == checkpoints.folder / "10"  # by number, not by name


def test_what_a_killed_save_leaves_is_swept_up(tmp_path: Path, target: TrainState) -> None:
    first = Checkpoints(tmp_path)
    first.save(4, filled(target, 0), {"stage": 0})
    first.close()
    unfinished = first.folder / "8.orbax-checkpoint-tmp"
    shutil.copytree(first.folder / "4", unfinished)
    for part in ("params", "ema", "optimizer", "meta"):  # as `kill -9` leaves it
        (unfinished / part).rename(unfinished / f"{part}.orbax-checkpoint-tmp")
    (unfinished / "commit_success.txt").unlink()
    assert newest_step(tmp_path) == first.folder / "4"
    again = Checkpoints(tmp_path)
    assert again.newest_whole() == 4
    again.close()
    for _ in range(200):  # it is swept up in the background
        if not unfinished.exists():
            break
        time.sleep(0.05)
    assert [path.name for path in first.folder.iterdir()] == ["4"]


# ---------------------------------------------------------------- Of a run


def test_weights_are_the_average_of_the_newest_step(smoke_run: Path, target: TrainState) -> None:
    reader = Checkpoints(smoke_run)
    state = reader.restore(12, target)
    reader.close()
    assert newest_step(smoke_run).name == "12"
    for path in (smoke_run, smoke_run / "checkpoints" / "12"):
        config, weights = load_weights(path)
        assert config["model"]["width"] == 32
        assert_same_bits(weights, state.ema)
    assert int(state.step) == 6
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(state.ema), strict=True))
    older = load_weights(smoke_run / "checkpoints" / "8")[1]
    assert any(np.any(a != b) for a, b in zip(jax.tree.leaves(older), jax.tree.leaves(state.ema), strict=True))


def test_the_meta_of_a_step(smoke_run: Path) -> None:
    meta = read_meta(smoke_run / "checkpoints" / "12")
    assert meta["stage"] == 1
    assert meta["stage_step"] == 6
    assert meta["patches"] == [[1, 2, 2], [1, 4, 4]]
    assert meta["config"]["train"]["batch"] == 16
    assert "data" in meta


# ---------------------------------------------------------------- Refusals


@pytest.mark.parametrize("made", ["nothing", "an empty folder", "only an unfinished step"])
def test_no_checkpoint_is_refused(tmp_path: Path, made: str) -> None:
    if made == "an empty folder":
        (tmp_path / "checkpoints").mkdir()
    elif made == "only an unfinished step":
        (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir(parents=True)
    for read in (newest_step, load_weights):
        with pytest.raises(fd.UserError, match=rf"^{tmp_path} holds no checkpoint; train there first"):
            read(tmp_path)


def largest(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def assert_names_the_step(caught: pytest.ExceptionInfo, step: Path) -> None:
    message = str(caught.value)
    assert message.startswith(f"checkpoint {step} is damaged or incomplete (")
    assert message.endswith("remove that folder to use the step before it")
    assert "\n" not in message


#: reads of the other arrays, still under way when the first one fails
unfinished_reads = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@unfinished_reads
@pytest.mark.parametrize("damage", ["truncated", "emptied", "removed"])
@pytest.mark.parametrize("part", ["the data", "ema/manifest.ocdbt", "meta/metadata"])
def test_damaged_weights_are_refused_and_the_step_before_still_loads(copy: Path, part: str, damage: str) -> None:
    step = copy / "checkpoints" / "12"
    file = largest(step / "ema") if part == "the data" else step / part
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2 if damage == "truncated" else 0])
    with pytest.raises(fd.UserError) as caught:
        fd.load(copy)
    assert_names_the_step(caught, step)
    del caught
    gc.collect()
    shutil.rmtree(step)  # what the message says
    assert newest_step(copy).name == "8"
    assert fd.load(copy).patches == ((1, 2, 2), (1, 4, 4))


@unfinished_reads
@pytest.mark.parametrize("part", ["params", "ema", "optimizer", "meta"])
def test_a_damaged_state_is_not_resumed_from(copy: Path, target: TrainState, part: str) -> None:
    step = copy / "checkpoints" / "12"
    file = largest(step / part)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    checkpoints = Checkpoints(copy)
    with pytest.raises(fd.UserError) as caught:
        checkpoints.restore(12, target)
    checkpoints.close()
    assert_names_the_step(caught, step)
    del caught
    gc.collect()


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(fd.UserError, match=r"^cannot write to .*file/run/checkpoints \(Not a directory\)$"):
        Checkpoints(tmp_path / "file" / "run")
