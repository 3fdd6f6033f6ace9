"""What a run tells of itself: its pace, outbreaks of the loss, a profile, samples on the way."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import flexidit_jax as fd
from flexidit_jax.common.chips import peak_flops
from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.jobs import train
from flexidit_jax.main import main
from flexidit_jax.runs import recovery as newest
from flexidit_jax.training.monitor.loss_spikes import ENOUGH, LossSpikes
from flexidit_jax.training.monitor.throughput import Throughput, memory
from flexidit_jax.training.monitor.trace import Trace

WEAK, POWERFUL = (1, 4, 4), (1, 2, 2)


def test_pace_counts_records_and_flops_since_the_last_look() -> None:
    now = [10.0]
    pace = Throughput(
        batch=8, flops={WEAK: 1e12, POWERFUL: 4e12}.__getitem__, devices=2, peak=5e12, clock=lambda: now[0]
    )
    assert pace.scalars() == {}
    now[0] = 20.0
    pace.restart()  # ten seconds of something else
    for patch in (WEAK, POWERFUL, POWERFUL, WEAK):
        pace.add(patch)
    now[0] = 22.0
    assert pace.scalars() == pytest.approx(
        {"samples_per_second": 16, "tflops_per_device": 2.5, "model_flops_utilization": 0.5}
    )
    pace.add(WEAK)
    now[0] = 23.0
    assert pace.scalars() == pytest.approx(
        {"samples_per_second": 8, "tflops_per_device": 0.5, "model_flops_utilization": 0.1}
    )


def test_no_utilisation_without_a_known_peak() -> None:
    pace = Throughput(batch=1, flops=lambda patch: 1.0, devices=1, peak=None)
    pace.add(WEAK)
    assert set(pace.scalars()) == {"samples_per_second", "tflops_per_device"}


def test_memory_is_this_process() -> None:
    held = memory()["memory/host_peak_gib"]
    assert 0.05 < held < 64  # jax alone takes more than 50 MiB; KiB or bytes in its place would fall out


def test_a_spike_is_told_once_and_moves_no_median() -> None:
    spikes = LossSpikes(3.0)
    for i in range(ENOUGH):
        assert spikes.starts(WEAK, 100.0 if i == 3 else 1.0) is None  # nothing is usual yet
    assert spikes.starts(POWERFUL, 50.0) is None  # another mode
    assert spikes.starts(WEAK, 3.0) is None
    assert spikes.starts(WEAK, 3.1) == 1.0
    assert [spikes.starts(WEAK, 9.0) for _ in range(2 * ENOUGH)] == [None] * 2 * ENOUGH  # the same outbreak
    for _ in range(ENOUGH):
        assert spikes.starts(WEAK, 1.0) is None
    assert spikes.starts(WEAK, 9.0) == 1.0


def test_spikes_can_be_left_alone() -> None:
    spikes = LossSpikes(None)
    assert not any(spikes.starts(WEAK, loss) for loss in [1.0] * ENOUGH + [1e9])


def test_a_profile_covers_the_steps_asked_for(tmp_path: Path) -> None:
    profile = Trace(tmp_path / "profile", at=2, steps=2)
    said = {}
    for done in range(6):
        profile.before(done)
        result = jnp.ones(4) + done
        if line := profile.after(done + 1, result):
            said[done + 1] = line
    assert list(said) == [4]
    assert said[4].startswith(f"profile of steps 3 to 4: {tmp_path / 'profile'}")
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize(("steps", "said"), [(0, None), (1, "profile of steps 5 to 5"), (2, "profile of steps 5 to 6")])
def test_a_profile_that_is_cut_short_is_written_and_said(tmp_path: Path, steps: int, said: str | None) -> None:
    profile = Trace(tmp_path, at=4)
    profile.before(4)
    for done in range(5, 5 + steps):
        assert profile.after(done, jax.block_until_ready(jnp.ones(4) + 1)) is None
        profile.before(done)
    assert profile.close() == (said and f"{said}: {tmp_path}, for xprof")
    assert profile.close() is None
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_peaks_are_those_of_bfloat16() -> None:
    assert peak_flops("TPU v5 lite", "bfloat16") == 197e12
    assert peak_flops("NVIDIA H200", "bfloat16") == 989e12
    assert peak_flops("NVIDIA H100 80GB HBM3", "bfloat16") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-40GB", "bfloat16") == 312e12
    assert peak_flops("NVIDIA H100 PCIe", "bfloat16") is peak_flops("NVIDIA H100 NVL", "bfloat16") is None
    assert peak_flops("NVIDIA H200", "float32") is peak_flops("cpu", "bfloat16") is None


def test_a_run_with_everything_on(
    smoke_run: Path, tmp_path: Path, quiet: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = iter(range(1, 13))
    monkeypatch.setattr(LossSpikes, "starts", lambda self, patch, loss: 0.25 if next(steps) == 9 else None)
    run = tmp_path / "run"
    words = ["--config.train.preview_every=6", "--config.profile_at=3", "--config.train.keep=1"]
    drawn, preview = [], train.preview
    monkeypatch.setattr(
        train,
        "preview",
        lambda *args, **words: drawn.append((words["first"], words["negative"])) or preview(*args, **words),
    )
    assert main([quiet, f"--workdir={run}", *words, "--config.sample.first=7", "--config.sample.negative=3"]) == 0
    assert drawn == [(7, 3)] * 2
    out = capsys.readouterr().out

    told = re.search(r"the loss jumps to [\d.]+ from 0.25 at step 9 \(patch (\d), (.*)\); (.*) stays", out)
    assert told[2] == "batch 9: 16 records from number 128 of epoch 0 on"
    kept = run / "checkpoints" / "kept-8"
    assert Path(told[3]) == kept.resolve()
    assert sorted(path.name for path in kept.parent.iterdir()) == ["12", "kept-8"]
    assert fd.load(kept).patches == ((1, 2, 2), (1, 4, 4))

    assert "profile of steps 4 to 6: " in out
    assert list((run / "profile").rglob("*.xplane.pb"))

    events = EventAccumulator(str(run))
    events.Reload()
    scalars = {tag for tag in events.Tags()["tensors"] if "/patch_" not in tag} - {"samples"}
    assert {"samples_per_second", "tflops_per_device", "memory/host_peak_gib", "uptime"} <= scalars
    assert "model_flops_utilization" not in scalars  # nobody knows a CPU's peak
    documented = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    assert not {tag for tag in scalars if f"`{tag}`" not in documented}
    pictures = {event.step for event in events.Tensors("samples")}
    assert pictures == {6, 12}

    ours, theirs = fd.load(run).params, fd.load(smoke_run).params  # watched or not, the same bits
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_step_that_cannot_be_kept_ends_no_run(
    tmp_path: Path, quiet: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*paths: object, **words: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    steps = iter(range(1, 7))
    monkeypatch.setattr(LossSpikes, "starts", lambda self, patch, loss: 0.25 if next(steps) == 5 else None)
    monkeypatch.setattr(newest.os, "link", full)  # a file system without links
    monkeypatch.setattr(newest.shutil, "copy2", full)
    words = ["--config.train.stages[0].steps=3", "--config.train.stages[1].steps=3", "--config.profile_at=5"]
    assert main([quiet, f"--workdir={tmp_path / 'run'}", *words]) == 0
    out = capsys.readouterr().out
    folder = tmp_path / "run" / "checkpoints"
    assert re.search(
        rf"the loss jumps to .*; the step before it could not be kept \(cannot write to {folder.resolve()}/kept-4.*"
        rf" \({os.strerror(errno.ENOSPC)}\)\)\n",
        out,
    )
    assert sorted(path.name for path in folder.iterdir()) == ["4", "6"]
    assert f"profile of steps 6 to 6: {tmp_path / 'run' / 'profile'}, for xprof\n" in out  # the run ends before step 8


def test_several_processes_refuse_to_draw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], quiet: str
) -> None:
    for name, result in {"join": None, "several": True, "me": "process 1 (b): ", "leave": 2}.items():
        monkeypatch.setattr(cluster, name, lambda *words, result=result, **more: result)
    monkeypatch.setattr(train, "agree", lambda *words: None)
    assert main([quiet, f"--workdir={tmp_path / 'run'}", "--config.train.preview_every=6"]) == 2
    assert capsys.readouterr().err == (
        "error: process 1 (b): train.preview_every=6 draws in one process, and here are several; set it to None\n"
    )
    assert not (tmp_path / "run").exists()
