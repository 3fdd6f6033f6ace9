"""The main job from end to end: what it leaves behind, and that stopping it changes no bit."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as TensorBoards

import flexidit_jax as fd
from flexidit_jax.codecs.identity import Codec
from flexidit_jax.common.config import load_config, plain
from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.main import main
from flexidit_jax.models.build import init
from flexidit_jax.models.flexify import adapter_rank, flexify
from flexidit_jax.runs.checkpoints import Checkpoints, read_meta
from flexidit_jax.runs.recovery import newest_step
from flexidit_jax.training.monitor.metric_log import MetricLog
from flexidit_jax.training.updates import COUNTS

ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "configs" / "digits.py"
SMOKE = f"--config={DIGITS}:smoke"
POINT_KEYS = {
    "schedule",
    "guide",
    "order",
    "flops_percent",
    "seconds",
    "seconds_percent",
    "fd",
    "accuracy",
    "guidance",
}


Saved = tuple[int, dict[str, Any], dict[str, Any]]


def saved(workdir: Path) -> Saved:
    """Number, meta and arrays of the newest checkpoint."""
    step = newest_step(workdir)
    with ocp.StandardCheckpointer() as reader:
        arrays = {part: reader.restore((step / part).resolve()) for part in ("params", "ema", "optimizer")}
    return int(step.name), read_meta(step), arrays


def assert_same(ours: Saved, theirs: Saved) -> None:
    """The same step with the same bits."""
    (number, _, arrays), (n, _, reference) = ours, theirs
    assert number == n
    assert jax.tree.structure(arrays) == jax.tree.structure(reference)
    for leaf, other in zip(jax.tree.leaves(arrays), jax.tree.leaves(reference), strict=True):
        np.testing.assert_array_equal(leaf, other)


def assert_same_end(workdir: Path, unbroken: Path) -> None:
    """The same newest step with the same bits, its data position included."""
    ours, theirs = saved(workdir), saved(unbroken)
    assert ours[0] == 12
    assert {**ours[1], "config": None} == {**theirs[1], "config": None}
    assert_same(ours, theirs)


# ---------------------------------------------------------------- What a run leaves behind


def test_files(smoke_run: Path) -> None:
    config = json.loads((smoke_run / "config.json").read_text())
    assert config == plain(load_config(f"{DIGITS}:smoke"))
    assert sorted(path.name for path in (smoke_run / "checkpoints").iterdir()) == ["12", "8"]  # keep=2
    names = {path.name for path in (smoke_run / "report").iterdir()}
    assert names == {"report.json", "report.md", "quality_vs_compute.png", "samples.png"}
    leftovers = [path.name for path in smoke_run.iterdir() if "tmp" in path.name]
    assert leftovers == []


@pytest.fixture
def one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGTERM comes in the first step of every start."""
    add = MetricLog.add

    def stop(self: MetricLog, number: int, *rest: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        add(self, number, *rest)

    monkeypatch.setattr(MetricLog, "add", stop)


@pytest.mark.slow
def test_the_table_of_parameters_is_printed_where_asked(
    tmp_path: Path, quiet: str, one_step: None, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, flags in {"silent": [], "said": ["--verbose"]}.items():
        assert main([quiet, f"--workdir={tmp_path / name}", *flags]) == 0
        table = (tmp_path / name / "parameters.txt").read_text()
        assert re.search(r"\| trunk/blocks/mlp/fc1/kernel +\| \(2, 32, 128\) +\| float32 \| 8,192 +\|", table)
        assert table.endswith("Total: 49,992 -- 199,968 bytes\n")
        assert capsys.readouterr().out.count(table) == len(flags)


def test_tensorboard(smoke_run: Path) -> None:
    events = EventAccumulator(str(smoke_run))
    events.Reload()
    tags = set(events.Tags()["tensors"]) | set(events.Tags()["scalars"])
    for metric in ("loss", "mse", "vlb", "grad_norm"):
        assert {f"{metric}/patch_2", f"{metric}/patch_4"} <= tags
    assert {tag for tag in tags if "quartile" in tag} <= {
        f"loss/patch_{p}/quartile_{i}" for p in (2, 4) for i in range(1, 5)
    }
    assert {f"loss/patch_2/quartile_{i}" for i in range(1, 5)} <= tags
    steps = {event.step for event in events.Tensors("loss/patch_2")}
    assert {2, 4, 6} <= steps <= {2, 4, 6, 8, 10, 12}
    assert not {event.step for event in events.Tensors("loss/patch_4")} & {2, 4, 6}


def test_pictures_and_words(smoke_run: Path) -> None:
    report = json.loads((smoke_run / "report" / "report.json").read_text())
    text = (smoke_run / "report" / "report.md").read_text()
    for name in ("quality_vs_compute.png", "samples.png"):
        assert f"({name})" in text
        with Image.open(smoke_run / "report" / name) as image:
            image.load()
            assert min(image.size) > 100
            assert np.asarray(image.convert("L")).std() > 1  # not blank
    for row in report["points"]:
        assert f"| {row['schedule']} |" in text


def test_report_json(smoke_run: Path) -> None:
    report = json.loads((smoke_run / "report" / "report.json").read_text())
    assert {"floor_fd", "heldout_fd", "classifier_accuracy", "points", "config", "versions"} <= set(report)
    assert report["config"] == json.loads((smoke_run / "config.json").read_text())
    assert {row["packing"] for row in report["points"]} == {None}  # no row names one
    assert report["floor_fd"] > 0
    assert report["heldout_fd"]["samples"] == 297
    assert report["heldout_fd"]["fd"] > 0
    assert report["classifier_accuracy"] > 0.9
    assert {"jax", "flax", "numpy"} <= set(report["versions"])

    points = report["points"]
    for row in points:
        assert set(row) >= POINT_KEYS
        assert row["order"] in ("weak_first", "weak_last", "fewer_steps")
        assert 0 <= row["accuracy"] <= 1
        assert min(row["fd"], row["seconds"], row["nearest"]) > 0
    assert [row["solver"] for row in points if row["solver"] != "ddpm"] == ["dpmpp_2m"]
    unguided = [row for row in points if row["guidance"] == 1 and row["solver"] == "ddpm"]
    assert [(row["order"], row["schedule"]) for row in unguided] == [
        ("weak_first", "2:4"),
        ("weak_first", "4:2,2:2"),
        ("weak_first", "4:4"),
        ("weak_last", "2:2,4:2"),
        ("fewer_steps", "2:2"),
    ]
    assert [(row["schedule"], row["guide"], row["guidance"]) for row in points[6:]] == [("2:4", "4:4", 1.5)]
    assert points[0]["flops_percent"] == points[0]["seconds_percent"] == 100
    assert report["seeds"] == [0, 1]
    for row in points:  # rows that differ in their schedule alone are drawn with both seeds
        assert len(set(row["fd_by_seed"])) == (2 if row in unguided else 1)
        assert row["fd"] == pytest.approx(np.mean(row["fd_by_seed"]))


def test_report_flops_are_those_of_the_model(smoke_run: Path) -> None:
    flex = fd.load(smoke_run)
    full = flex.flops(steps=4, guidance=1).total
    for row in json.loads((smoke_run / "report" / "report.json").read_text())["points"]:
        steps = 2 if row["order"] == "fewer_steps" else 4
        ours = flex.flops(steps=steps, schedule=row["schedule"], guide=row["guide"], guidance=row["guidance"])
        assert row["flops_percent"] == pytest.approx(100 * ours.total / full)
        steps_too = row["flops_percent_guided"] * (4 / steps)  # of the full run with the row's guidance
        assert steps_too == pytest.approx(100 * ours.relative)
        if row["order"] == "fewer_steps":
            assert row["flops_percent"] == pytest.approx(50)


def test_a_finished_run_says_so_and_goes_on_to_the_report(
    smoke_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(smoke_run, tmp_path / "copy")
    shutil.rmtree(copy / "report")
    assert main([SMOKE, f"--workdir={copy}"]) == 0
    assert f"{copy}: training is finished (12 steps)" in capsys.readouterr().out
    assert_same_end(copy, smoke_run)
    ours, theirs = (json.loads((run / "report" / "report.json").read_text())["points"] for run in (copy, smoke_run))
    for row, reference in zip(ours, theirs, strict=True):  # measured again: all but the seconds is the same
        assert {k: v for k, v in row.items() if "seconds" not in k} == {
            k: v for k, v in reference.items() if "seconds" not in k
        }


# ---------------------------------------------------------------- Stopping and going on


def test_resuming_within_the_second_stage(smoke_run: Path, tmp_path: Path, quiet: str) -> None:
    copy = shutil.copytree(smoke_run, tmp_path / "copy")
    shutil.rmtree(copy / "checkpoints" / "12")
    assert newest_step(copy).name == "8"
    assert main([quiet, f"--workdir={copy}"]) == 0
    assert_same_end(copy, smoke_run)
    events = TensorBoards(str(copy), purge_orphaned_data=True)
    events.Reload()
    assert [event.step for event in events.Tensors("loss/patch_2")] == [2, 4, 6, 8, 10, 12]


RARE = """
import runpy


def get_config():
    config = runpy.run_path({digits!r})["get_config"]("smoke")
    rare = {{"patches": (2, 4), "learning_rate": 1e-3, "probabilities": (0.75, 0.25)}}
    config.train.stages = ({{"patches": (2,), "steps": 2}}, {{**rare, "steps": 10}}, {{**rare, "steps": 6}})
    config.train.update(checkpoint_every=3, keep=9)
    config.report = None
    return config
"""


def test_resuming_across_a_rare_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its updates are counted again at a start, also those of the stage before."""
    (tmp_path / "rare.py").write_text(RARE.format(digits=str(DIGITS)))
    config = f"--config={tmp_path / 'rare.py'}"
    train = build_experiment(load_config(str(tmp_path / "rare.py"))).train
    modes = [train.stages[train.place(number)[0]].mode(0, number) for number in range(train.steps)]
    rare = [number for number, mode in enumerate(modes) if mode == (1, 4, 4)]
    assert main([config, f"--workdir={tmp_path / 'whole'}"]) == 0
    whole = saved(tmp_path / "whole")
    for kept in (9, 15):  # in the middle of either stage of both modes
        assert any(number < kept for number in rare) and any(number >= kept for number in rare)
        copy = shutil.copytree(tmp_path / "whole", tmp_path / f"from{kept}")
        for step in (copy / "checkpoints").iterdir():
            if int(step.name) > kept:
                shutil.rmtree(step)
        capsys.readouterr()
        monkeypatch.setattr("flexidit_jax.jobs.train.COUNTS", COUNTS if kept == 9 else "of another version")
        assert main([config, f"--workdir={copy}"]) == 0
        says = f"step {kept} counted updates for all modes alike; from here on Adam and the average go by those of each"
        assert (says in capsys.readouterr().out) == (kept == 15)
        assert whole[0] == 18
        assert_same(saved(copy), whole)


def test_a_damaged_newest_step_costs_what_came_after_the_one_before(
    smoke_run: Path, tmp_path: Path, quiet: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(smoke_run, tmp_path / "copy")
    step = copy / "checkpoints" / "12"
    manifest = step / "optimizer" / "manifest.ocdbt"
    content = bytearray(manifest.read_bytes())
    content[-1] ^= 1
    manifest.write_bytes(content)
    assert main([quiet, f"--workdir={copy}"]) == 0
    out = capsys.readouterr().out
    assert (
        f"checkpoint {step} is damaged (optimizer/manifest.ocdbt is not what was written): set aside as damaged-12,"
        " going on from step 8\n"
    ) in out
    assert f"{copy}: resuming after step 8 of 12\n" in out
    assert_same_end(copy, smoke_run)
    assert sorted(path.name for path in (copy / "checkpoints").iterdir()) == ["12", "8", "damaged-12"]


class Stopped(NamedTuple):
    """A run stopped by SIGTERM in the middle of a step."""

    folder: Path
    status: int
    out: str
    err: str


@pytest.fixture(scope="module")
def stopped(held: str, tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    folder = tmp_path_factory.mktemp("stopped") / "run"
    command = [sys.executable, "-c", held, "stdout", SMOKE, f"--workdir={folder}"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as child:
        if "HELD\n" in child.stdout:  # reads until then
            child.send_signal(signal.SIGTERM)
        out, err = child.communicate("\n", timeout=300)
    return Stopped(folder, child.returncode, out, err)


@pytest.mark.slow
def test_sigterm_saves_and_exits_zero(stopped: Stopped) -> None:
    assert stopped.status == 0, stopped.err
    assert "saving before stopping" in stopped.err
    assert "Traceback" not in stopped.err
    assert newest_step(stopped.folder).name == "3"
    assert "stopped after step 3 of 12; saved" in stopped.out
    assert not (stopped.folder / "report").exists()


@pytest.mark.parametrize("during", ["the report", "the last save"])
def test_sigterm_after_the_last_step_ends_with_the_status_asked_for(
    smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, during: str
) -> None:
    run = shutil.copytree(smoke_run, tmp_path / "run")
    shutil.rmtree(run / "report", ignore_errors=True)
    close = Checkpoints.close

    def terminated(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    if during == "the report":
        monkeypatch.setattr("flexidit_jax.jobs.report.measure", terminated)
    else:
        monkeypatch.setattr(Checkpoints, "close", lambda self: (terminated(), close(self)))

    def unheard(*_: object) -> None:
        raise AssertionError("SIGTERM would have killed the process")

    before = signal.signal(signal.SIGTERM, unheard)
    try:
        assert main([SMOKE, f"--workdir={run}", "--stopped-status=75"]) == 75
        assert signal.getsignal(signal.SIGTERM) is unheard
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not list(run.glob("report*"))


@pytest.mark.slow
def test_sigterm_changes_no_bit(
    stopped: Stopped, smoke_run: Path, tmp_path: Path, quiet: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(stopped.folder, tmp_path / "run")
    assert main([quiet, f"--workdir={run}"]) == 0
    assert "resuming after step 3 of 12" in capsys.readouterr().out
    assert_same_end(run, smoke_run)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["12", "8"]  # no debris


def test_ctrl_c_saves_and_exits_130(
    tmp_path: Path, quiet: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    add = MetricLog.add

    def press(self: MetricLog, number: int, *rest: Any) -> None:
        add(self, number, *rest)
        if number == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(MetricLog, "add", press)
    assert main([quiet, f"--workdir={tmp_path / 'run'}"]) == 130
    assert newest_step(tmp_path / "run").name == "3"
    assert "stopped after step 3 of 12; saved" in capsys.readouterr().out
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_loss_that_is_not_finite_stops_the_run_and_is_not_saved(
    tmp_path: Path, quiet: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run = tmp_path / "run"
    words = ["--config.train.stages[0].learning_rate=1e30", "--config.train.checkpoint_every=1"]
    assert main([quiet, f"--workdir={run}", *words]) == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    where = r"\(patch 2, batch \2: 16 records from number \d+ of epoch 0 on\)"
    match = re.match(rf"error: the \w+ is (nan|inf) at step (\d+) {where}; nothing is saved from there on", message)
    assert match, message
    step = match[2]
    assert 2 <= int(step) <= 6
    assert int(newest_step(run).name) == int(step) - 1
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


# ---------------------------------------------------------------- Starting from other weights


#: from scratch, from a run, from a weight file: never whole on one device
SPLIT = """
import sys
import jax
from flexidit_jax.common.config import load_config
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.experiment.start import first_params
from flexidit_jax.training.sharding import make_mesh

config = load_config(sys.argv[1])
for source in (None, *sys.argv[2:]):
    config.init_from = source
    params = first_params(build_experiment(config))(make_mesh(fsdp=8))
    kernel = params["blocks"]["mlp"]["fc1"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape)[1] == kernel.shape[1] // 8, (source, kernel.sharding)
    assert all(leaf.committed for leaf in jax.tree.leaves(params))
"""


@pytest.mark.slow
def test_the_first_weights_are_made_split(on_devices: Callable[..., str], smoke_run: Path, quiet: str) -> None:
    on_devices(8, "-c", SPLIT, quiet.removeprefix("--config="), smoke_run)


def test_init_from_starts_with_those_weights(smoke_run: Path, tmp_path: Path, quiet: str, one_step: None) -> None:
    model = fd.load(smoke_run).model
    source = fd.FlexiDiT(model, flexify(init(model, jax.random.key(9)), [model.base_patch]), Process(), Codec())
    source.save(tmp_path / "source")
    run = tmp_path / "run"  # its step 1 has rate zero: the parameters saved are those begun with
    assert main([quiet, f"--workdir={run}", f"--config.init_from={tmp_path / 'source'}"]) == 0
    number, _, arrays = saved(run)
    assert number == 1
    for part in ("trunk", "tokens"):
        ours, theirs = arrays["params"][part], source.params[part]
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------- Adapters


def test_the_adapter_config_trains_and_reports(tmp_path: Path) -> None:
    config = f"--config={Path(__file__).parents[2] / 'configs' / 'digits_adapters.py'}:smoke"
    run = tmp_path / "run"
    assert main([config, f"--workdir={run}", "--config.report.weak_first=(0,4)"]) == 0
    flex = fd.load(run)
    assert adapter_rank(flex.params) == 16
    trained = flex.params["modes"]["1x4x4"]["blocks"]["attention"]["qkv"]
    assert np.any(trained["lora_b"])


@pytest.fixture
def only_adapters(tmp_path: Path) -> str:
    """The smoke config of adapters without its pre-training, its report or its search."""
    file = tmp_path / "only.py"
    file.write_text(
        "import runpy\n\n\n"
        "def get_config():\n"
        f"    config = runpy.run_path({str(ROOT / 'configs' / 'digits_adapters.py')!r})['get_config']('smoke')\n"
        "    config.train.stages = config.train.stages[1:]\n"
        "    config.report = None\n"
        "    return config\n"
    )
    return f"--config={file}"


@pytest.mark.slow
def test_adapters_want_a_model_at_their_beginning_only(
    smoke_run: Path,
    tmp_path: Path,
    only_adapters: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [only_adapters, f"--workdir={tmp_path / 'run'}"]
    assert main([*words, "--mode=compile", "--config.compile.programs=('train',)"]) == 0
    base = f"--config.init_from={smoke_run / 'checkpoints' / '8'}"
    assert main([*words, "--mode=sample", base, "--config.sample.budget=None"]) == 0  # of the model it would adapt
    add = MetricLog.add

    def stop(self: MetricLog, number: int, *rest: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        add(self, number, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(MetricLog, "add", stop)
        assert main([*words, base]) == 0
    capsys.readouterr()
    assert main(words) == 0  # on without init_from: the folder holds all it needs
    assert "resuming after step 1 of 6" in capsys.readouterr().out
    assert main([*words, "--mode=sample"]) == 0
