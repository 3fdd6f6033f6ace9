"""Checkpoints: back to the bit on any mesh; a damaged or unwritable one is named and costs the one before nothing."""

from __future__ import annotations

import gc
import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import flexidit_jax as fd
from flexidit_jax.common.config import load_config, plain
from flexidit_jax.convert.run_weights import load_weights
from flexidit_jax.experiment.experiment import Experiment, build_experiment
from flexidit_jax.models.build import init
from flexidit_jax.runs.checkpoints import Checkpoints, read_meta
from flexidit_jax.runs.checksums import CHECKSUMS
from flexidit_jax.runs.disk import in_bytes
from flexidit_jax.runs.recovery import newest_step, steps_of
from flexidit_jax.training.sharding import make_mesh, shaped
from flexidit_jax.training.state import TrainState, abstract

CONFIG = Path(__file__).parents[2] / "configs" / "digits.py"


def smoke_experiment() -> Experiment:
    return build_experiment(load_config(f"{CONFIG}:smoke"))


def second_stage(smoke: Experiment) -> TrainState:
    """Shapes of the second stage's state."""
    stage = smoke.train.stages[1]
    return abstract(partial(init, smoke.model, jax.random.key(0)), stage, smoke.train.optimizer.build(stage.rate()))


#: what a run writes beside the state, as of the second stage
META = {
    "stage": 1,
    "patches": [[1, 2, 2], [1, 4, 4]],
    "adapters": None,
    "data": {"next_index": 7},
    "config": plain(load_config(f"{CONFIG}:smoke")),
}


@pytest.fixture(scope="module")
def target() -> TrainState:
    return shaped(second_stage(smoke_experiment()), make_mesh())


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
    assert checkpoints.meta(12) == {**meta, "stage_step": int(state.step), "checksums": CHECKSUMS}
    assert_same_bits(checkpoints.restore(12, target), state)


@pytest.mark.parametrize(("part", "bad"), [("params", np.nan), ("ema", np.inf)])
def test_weights_that_are_not_finite_are_refused(
    checkpoints: Checkpoints, target: TrainState, part: str, bad: float
) -> None:
    state = filled(target, 2)
    leaf = "trunk/final/modulation/bias"
    *above, last = leaf.split("/")
    node = getattr(state, part)
    for key in above:
        node = node[key]
    node[last] = node[last].at[1].set(bad)
    checkpoints.save(3, state, META)
    checkpoints.wait()
    where = f"{checkpoints.folder / '3'} holds NaN or infinity; take weights from before that happened"
    with pytest.raises(fd.UserError) as caught:
        checkpoints.restore(3, target)
    assert str(caught.value) == f"{part}/{leaf} of {where}"
    which = {"params": "raw", "ema": "ema"}
    with pytest.raises(fd.UserError) as caught:
        load_weights(checkpoints.folder.parent, which.pop(part))
    assert str(caught.value) == f"{leaf} of {where}"
    load_weights(checkpoints.folder.parent, *which.values())  # the other is sound


def test_the_raw_weights_of_a_run_are_those_that_are_averaged(smoke_run: Path) -> None:
    raw, average = (load_weights(smoke_run, which)[1] for which in ("raw", None))
    meta = ocp.StandardCheckpointer().restore(newest_step(smoke_run) / "params")
    assert_same_bits(raw, meta)
    assert not np.array_equal(
        raw["trunk"]["final"]["modulation"]["kernel"], average["trunk"]["final"]["modulation"]["kernel"]
    )
    with pytest.raises(fd.UserError, match="weights='mean' is none that a run has; it has 'ema' and 'raw'"):
        load_weights(smoke_run, "mean")


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
    assert [path.name for path in first.folder.iterdir()] == ["4"]


#: saves on one mesh and reads on others; eight devices want a process of their own
MESHES = """
import jax, runpy, sys
from pathlib import Path
import numpy as np
from flexidit_jax.runs.checkpoints import Checkpoints
from flexidit_jax.convert.run_weights import load_weights
from flexidit_jax.training.sharding import make_mesh, placed, shaped

here = runpy.run_path(sys.argv[1])
folder = Path(sys.argv[2])
shapes = here["second_stage"](here["smoke_experiment"]())
state = placed(here["filled"](shapes, 3), make_mesh(2, 2, 2))
assert len({str(leaf.sharding) for leaf in jax.tree.leaves(state)}) > 3
checkpoints = Checkpoints(folder)
checkpoints.save(7, state, here["META"])
checkpoints.wait()
for sizes in ((8, 1, 1), (2, 4, 1), (2, 2, 2)):
    target = shaped(shapes, make_mesh(*sizes))
    found = checkpoints.restore(7, target)
    here["assert_same_bits"](found, state)
    for leaf, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(target), strict=True):
        assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim), (leaf.sharding, wanted.sharding)
checkpoints.close()
weights = load_weights(folder)[1]
assert {type(leaf) for leaf in jax.tree.leaves(weights)} == {np.ndarray}  # on the host, whatever mesh wrote them
here["assert_same_bits"](weights, state.ema)
"""


@pytest.mark.slow
def test_saved_on_one_mesh_restored_on_others_and_on_one_device(
    on_devices: Callable[..., str], tmp_path: Path, target: TrainState
) -> None:
    on_devices(8, "-c", MESHES, __file__, tmp_path)
    assert jax.device_count() == 1
    state = filled(target, 3)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.newest_whole() == 7
    assert_same_bits(checkpoints.restore(7, target), state)
    assert checkpoints.meta(7) == {**META, "stage_step": int(state.step), "checksums": CHECKSUMS}
    checkpoints.close()
    assert_same_bits(load_weights(tmp_path)[1], state.ema)


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


def spoil(file: Path, damage: str) -> None:
    content = bytearray(file.read_bytes())
    if damage == "removed":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 16  # one bit
        file.write_bytes(content)


def assert_names_the_step(caught: pytest.ExceptionInfo, step: Path) -> None:
    message = str(caught.value)
    assert message.startswith(f"checkpoint {step} is damaged or incomplete (")
    assert message.endswith("move that folder away to use the step before it")
    assert "\n" not in message


@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed"])
@pytest.mark.parametrize("part", ["the data", "ema/manifest.ocdbt", "meta/metadata"])
def test_with_damaged_weights_the_step_before_is_read(
    copy: Path, smoke_run: Path, part: str, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    step = copy / "checkpoints" / "12"
    spoil(largest(step / "ema") if part == "the data" else step / part, damage)
    assert_same_bits(load_weights(copy)[1], load_weights(smoke_run / "checkpoints" / "8")[1])
    said = capsys.readouterr().err
    assert said.startswith(f"checkpoint {step} is damaged (")
    assert said.endswith("): reading step 8\n")
    assert said.count("\n") == 1
    assert sorted(path.name for path in (copy / "checkpoints").iterdir()) == ["12", "8"]
    with pytest.raises(fd.UserError) as caught:
        fd.load(step)
    assert_names_the_step(caught, step)


@pytest.mark.parametrize("part", ["params", "ema", "optimizer", "meta"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed"])
def test_a_damaged_state_is_set_aside_and_saved_anew(copy: Path, target: TrainState, part: str, damage: str) -> None:
    spoil(largest(copy / "checkpoints" / "12" / part), damage)
    checkpoints = Checkpoints(copy)
    assert checkpoints.newest_whole() == 8
    names = [["8", "damaged-12"]]
    if (part, damage) == ("params", "flipped"):  # once is enough
        state = filled(target, 0)
        checkpoints.save(12, state, {"stage": 1})
        checkpoints.wait()
        assert_same_bits(checkpoints.restore(12, target), state)
        names = [["12", "8", "damaged-12"]]
    checkpoints.close()
    assert [sorted(path.name for path in checkpoints.folder.iterdir())] == names


#: reads of the other arrays, still under way when the first one fails
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("part", ["params", "meta"])
def test_a_damaged_state_without_checksums_is_refused(copy: Path, target: TrainState, part: str) -> None:
    step = copy / "checkpoints" / "12"
    (step / CHECKSUMS).unlink()
    meta = json.loads((step / "meta/metadata").read_text())
    del meta["checksums"]  # as an earlier version wrote it
    (step / "meta/metadata").write_text(json.dumps(meta))
    spoil(largest(step / part), "truncated")
    checkpoints = Checkpoints(copy)
    with pytest.raises(fd.UserError) as caught:
        checkpoints.restore(12, target)
    checkpoints.close()
    assert_names_the_step(caught, step)
    del caught
    gc.collect()


# ---------------------------------------------------------------- A full disk


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """Writes past `size` bytes of a file fail, as they do on a full disk, in every thread and library.

    Over how many files tensorstore spreads the arrays is a matter of timing: one array alone must be larger.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("noticed", ["by wait", "by close", "by the next save"])
def test_a_save_that_fails_leaves_the_step_before(tmp_path: Path, target: TrainState, noticed: str) -> None:
    checkpoints = Checkpoints(tmp_path)
    state = filled(target, 0)
    checkpoints.save(4, state, {"stage": 1})
    checkpoints.wait()
    with no_file_beyond(20_000), pytest.raises(fd.UserError) as caught:
        checkpoints.save(8, filled(target, 1), {"stage": 1})
        if noticed == "by the next save":
            checkpoints.save(12, filled(target, 1), {"stage": 1})
        checkpoints.close() if noticed == "by close" else checkpoints.wait()
    message = str(caught.value)
    assert message.startswith(f"checkpoint {checkpoints.folder / '8'} could not be written and step 4 stays (")
    assert "File too large): it takes about" in message
    assert message.endswith(" are free; put that right, then give the same command again")
    assert "\n" not in message
    if noticed != "by close":
        checkpoints.close()
    again = Checkpoints(tmp_path)
    assert [path.name for path in steps_of(tmp_path)] == ["4"]
    assert again.newest_whole() == 4
    assert_same_bits(again.restore(4, target), state)
    again.close()


@pytest.mark.parametrize(
    "notes", ["[os_error_code='28'] [spec='{\"a\":true}']", "[spec='{\"a\":true}'] [os_error_code='28']"]
)
def test_the_systems_words_are_found_wherever_tensorstore_puts_its_notes(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch, notes: str
) -> None:
    def failing() -> None:
        raise ValueError(
            f"DATA_LOSS: Failed writing: Failed to write 9 bytes to file 6: No space left on device {notes}"
        )

    with monkeypatch.context() as patched, pytest.raises(fd.UserError, match=r" \(No space left on device\): "):
        patched.setattr(checkpoints._manager, "wait_until_finished", failing)
        checkpoints.wait()


def test_a_save_that_would_not_fit_is_not_begun(
    checkpoints: Checkpoints, target: TrainState, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = filled(target, 0)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.ema, state.optimizer)))
    free = [size]
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free[0]))
    checkpoints.check_room(state)
    checkpoints.save(4, state, {"stage": 1})
    checkpoints.wait()
    free[0] = size - 1
    room = rf": it takes about {in_bytes(size)}, {in_bytes(size - 1)} are free; make room, then give the same command"
    with pytest.raises(fd.UserError, match=rf"/8 could not be written and step 4 stays{room}"):
        checkpoints.save(8, state, {"stage": 1})
    with pytest.raises(fd.UserError, match=rf"^no room for a single checkpoint in {checkpoints.folder}{room}"):
        checkpoints.check_room(state)
    assert [path.name for path in checkpoints.folder.iterdir()] == ["4"]


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(fd.UserError, match=r"^cannot write to .*file/run/checkpoints \(Not a directory\)$"):
        Checkpoints(tmp_path / "file" / "run")
